"""Cameras: device, URL (RTSP, MJPEG), Raspberry Pi camera, video file, folder of images, simulator.

All behind `vision.frames.Camera`. A camera that is absent is no reason for a bin not to start: it
is looked for until it is there, and meanwhile the bin says so.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.config import CameraConfig
from vision.addresses import without_secrets
from vision.datasets import Dataset, Sample, image_paths, open_dataset
from vision.errors import CameraError, DatasetError
from vision.frames import Camera, Frame
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.world import Items, Photographs, SimulatedItems, World
from vision.taxonomy import MATERIALS_1

_REOPEN_S = 0.5
_NETWORK_MS = 3000
_HUNG_S = 120.0


class VideoFile:
    """Every frame of a video file, once, in order.

    Args:
        source: path of the file.

    Attributes:
        sequence: number of the image last read.

    Raises:
        CameraError: the file cannot be opened.
    """

    def __init__(self, source: str, clock: Clock) -> None:
        self._video = _open(source, None, None)
        self._clock = clock
        self.sequence = 0
        self._source = without_secrets(source)

    def read(self) -> Frame | None:
        """Return the next frame, or None after the last."""
        good, pixels = self._video.read()
        if not good:
            return None
        self.sequence += 1
        return Frame(
            np.asarray(pixels, np.uint8),
            self.sequence,
            self._clock.now().monotonic_ms,
            self._source,
        )

    def restart(self) -> None:
        """Do nothing: a recording that shows the same for long is no fault."""

    def close(self) -> None:
        """Release the file."""
        self._video.release()


class Device(Protocol):
    """What `LiveCamera` reads from: cv2.VideoCapture's own two methods."""

    def read(self) -> tuple[bool, Any]:
        """Wait for an image; return (whether there is one, uint8 height x width x 3, BGR)."""

    def release(self) -> None:
        """Let go of the device."""


class LiveCamera:
    """A device or a network stream.

    Its own thread reads, the newest frame wins, an unread one is dropped.

    Args:
        open_device: opens it; raises CameraError while it cannot be opened.
        source: its name, for people.
        stale_after_s: longest wait for a new frame.
    """

    def __init__(
        self, open_device: Callable[[], Device], source: str, stale_after_s: float, clock: Clock
    ) -> None:
        self._open_device = open_device
        self._clock = clock
        self._source = without_secrets(source)
        self._stale_after_s = stale_after_s
        self._newest: Frame | None = None
        self._reason = ""
        self._busy_since_s = math.inf
        self._arrived = threading.Condition()
        self._closed = threading.Event()
        self._restart = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="capture", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """Return the newest frame not yet read, waiting for one.

        Raises:
            CameraError: none came in time; the camera is opened again in the background.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._newest is not None, self._stale_after_s):
                raise CameraError(
                    self._reason
                    or f"camera {self._source}: no frame for {self._stale_after_s:g} s; check "
                    "cable, power, address"
                )
            frame = self._newest
            self._newest = None
        return frame

    @property
    def hung(self) -> bool:
        """Whether the driver has not come back for minutes (opening, reading, releasing).

        Or the thread has ended.
        """
        stuck = time.monotonic() - self._busy_since_s > _HUNG_S
        return stuck or not (self._thread.is_alive() or self._closed.is_set())

    def restart(self) -> None:
        """Open the device again."""
        self._restart.set()

    def close(self) -> None:
        """Stop reading and release the device."""
        self._closed.set()
        self._thread.join(timeout=self._stale_after_s)

    def _pump(self) -> None:
        """Open, read, and open again, until closed.

        The thread that reads also releases: a device that is taken away under a read can crash the
        process.
        """
        sequence = 0
        while not self._closed.is_set():
            self._busy_since_s = time.monotonic()
            try:
                device = self._open_device()
            except Exception as error:  # noqa: BLE001
                self._reason = str(error) or repr(error)
                self._busy_since_s = math.inf
                self._closed.wait(_REOPEN_S)
                continue
            self._reason = ""
            self._restart.clear()
            while not (self._closed.is_set() or self._restart.is_set()):
                self._busy_since_s = time.monotonic()
                try:
                    good, pixels = device.read()
                except Exception as error:  # noqa: BLE001
                    good = False
                    pixels = None
                    self._reason = str(error) or repr(error)
                if not good:
                    break
                sequence += 1
                frame = Frame(
                    np.asarray(pixels, np.uint8),
                    sequence,
                    self._clock.now().monotonic_ms,
                    self._source,
                )
                with self._arrived:
                    self._newest = frame
                    self._arrived.notify()
            self._busy_since_s = time.monotonic()
            try:
                device.release()
            except Exception as error:  # noqa: BLE001
                self._reason = str(error) or repr(error)
            self._busy_since_s = math.inf
            self._closed.wait(_REOPEN_S)


class PiCamera:
    """The Raspberry Pi's camera through picamera2, Debian's package on that board.

    It is imported here alone.

    Args:
        size_px: width, height of the images.

    Raises:
        CameraError: picamera2 is not installed, or there is no camera.
    """

    def __init__(self, size_px: tuple[int, int]) -> None:
        try:
            from picamera2 import Picamera2  # noqa: PLC0415

            self._camera = camera = Picamera2()
        except ImportError as error:
            raise CameraError(
                "camera picamera: picamera2 is not installed: apt install python3-picamera2, and "
                "make the virtual "
                "environment with --system-site-packages"
            ) from error
        except (RuntimeError, IndexError, OSError) as error:
            raise CameraError(
                f"camera picamera: {error}; check the ribbon cable and 'rpicam-hello'"
            ) from error
        try:
            # picamera2 names formats the other way round: its RGB888 is OpenCV's BGR in memory.
            camera.configure(
                camera.create_video_configuration(
                    main={"size": size_px, "format": "RGB888"}, buffer_count=2
                )
            )
            camera.start()
        except Exception as error:
            camera.close()  # or the next try finds it busy
            raise CameraError(
                f"camera picamera: {error}; check the ribbon cable and 'rpicam-hello'"
            ) from error

    def read(self) -> tuple[bool, Any]:
        """Return the next image."""
        return True, self._camera.capture_array("main")

    def release(self) -> None:
        """Stop the camera."""
        self._camera.stop()
        self._camera.close()


class WorldCamera:
    """Looks at a simulated world, at a steady pace."""

    def __init__(self, world: World, fps: float, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._sequence = 0
        self._period_ms = 1000 / fps if fps else 0.0
        self._next_ms = 0.0

    def read(self) -> Frame | None:
        """Return the next frame, or None when the world has ended."""
        now_ms = self._clock.now().monotonic_ms
        if self._period_ms:
            self._next_ms = max(self._next_ms + self._period_ms, now_ms)
            time.sleep((self._next_ms - now_ms) / 1000)
        pixels = self._world.view()
        if pixels is None:
            return None
        self._sequence += 1
        return Frame(pixels, self._sequence, self._clock.now().monotonic_ms, "world")

    def restart(self) -> None:
        """Do nothing: a world cannot freeze."""

    def close(self) -> None:
        """Nothing to release."""


class Recorder:
    """Passes on what a camera sees and records it, to be replayed.

    Bounded: the recording ends, the camera goes on.

    Args:
        camera: what is recorded.
        recording: an .avi file to write: each image by itself (Motion JPEG), so that replays are
            exact.
        fps: pace at which it will be replayed.
        frames: of the recording at most.

    Raises:
        CameraError: the first image cannot be written.
    """

    def __init__(self, camera: Camera, recording: Path, fps: float, frames: int = 6000) -> None:
        self._camera = camera
        self._recording = recording
        self._fps = fps
        self._left = frames
        self._writer: cv2.VideoWriter | None = None

    def read(self) -> Frame | None:
        """Return the camera's frame."""
        frame = self._camera.read()
        if frame is not None and self._left:
            self._left -= 1
            if self._writer is None:
                height, width = frame.pixels_hwc.shape[:2]
                self._writer = cv2.VideoWriter(
                    str(self._recording),
                    cv2.VideoWriter.fourcc(*"MJPG"),
                    self._fps,
                    (width, height),
                )
                if not self._writer.isOpened():
                    raise CameraError(
                        f"--record {self._recording}: cannot be written; name an .avi file in a "
                        "folder of yours"
                    )
            self._writer.write(frame.pixels_hwc)
        return frame

    @property
    def hung(self) -> bool:
        """Whether the camera's driver does not come back."""
        return bool(getattr(self._camera, "hung", False))

    def restart(self) -> None:
        """Open the device again."""
        self._camera.restart()

    def close(self) -> None:
        """Finish the recording and release the device."""
        if self._writer is not None:
            self._writer.release()
        self._camera.close()


def open_camera(config: CameraConfig, state: Path, clock: Clock) -> tuple[Camera, World | None]:
    """Open the configured camera; for folder and simulator also return the world it looks at.

    Raises:
        CameraError, DatasetError: it cannot be opened; the message says what to check.
    """
    size_px = (config.width_px, config.height_px)
    if config.kind == "file":
        return VideoFile(config.source, clock), None
    if config.kind in ("device", "url", "picamera"):
        opener = (
            partial(PiCamera, size_px)
            if config.kind == "picamera"
            else partial(_open, config.source, *size_px)
        )
        return LiveCamera(opener, config.source, config.stale_after_s, clock), None
    items: Items
    count: int | None
    if config.kind == "folder":
        images = _images(Path(config.source), config.split)
        items = Photographs(images, config.seed)
        count = config.items or len(images.samples)
    else:
        items = SimulatedItems(config.seed, MATERIALS_1.ordered(config.labels or CATALOGUE))
        count = config.items
    world = World(
        items,
        count,
        size_px,
        config.seed,
        state / "truth.jsonl",
        dark_floor=config.kind == "folder",
    )
    return WorldCamera(world, config.fps, clock), world


def _images(root: Path, split: str) -> Dataset:
    if not root.is_dir():
        raise CameraError(f"camera.source: no such folder: {root}")
    try:
        dataset = open_dataset(root)
    except DatasetError:
        dataset = None  # images without labels are items as well
    if dataset:
        return dataset.select(split) if split else dataset
    samples = tuple(Sample(p, p.name, "", "", p.name) for p in image_paths(root))
    if not samples:
        raise CameraError(f"camera.source: no image in {root}")
    return Dataset(root.name, samples)


def _open(source: str, width_px: int | None, height_px: int | None) -> cv2.VideoCapture:
    """Open a device by number or path, an address, or a file.

    Sizes are asked of devices (None for a file).
    """
    if source.isdigit():
        video = cv2.VideoCapture(int(source))
    elif "://" in source:
        # FFmpeg waits half a minute by itself; a bin that is blind must know it within seconds.
        waits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            _NETWORK_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            _NETWORK_MS,
        ]
        video = cv2.VideoCapture(source, cv2.CAP_FFMPEG, waits)
    else:
        video = cv2.VideoCapture(source)
    if not video.isOpened():
        raise CameraError(
            f"camera {without_secrets(source)}: cannot be opened; "
            "check that it exists, is free, and that you may read it"
        )
    if width_px and height_px and "://" not in source:
        video.set(cv2.CAP_PROP_FRAME_WIDTH, width_px)
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, height_px)
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old image is no use
    return video
