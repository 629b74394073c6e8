"""Cameras: device, video file, URL, folder of pictures, simulator. All behind `vision.frames.Camera`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.config import CameraConfig
from vision.datasets import Dataset, Sample, image_paths, open_dataset
from vision.errors import CameraError, DatasetError
from vision.frames import Camera, Frame
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.world import Items, Photographs, SimulatedItems, World
from vision.taxonomy import MATERIALS_1

_REOPEN_S = 0.5


class VideoFile:
    """Every frame of a video file, once, in order.

    Args:
        source: path of the file.

    Raises:
        CameraError: the file cannot be opened.
    """

    def __init__(self, source: str, clock: Clock) -> None:
        self._video, self._clock, self._sequence = _open(source, None, None), clock, 0
        self._source = source

    def read(self) -> Frame | None:
        """Return the next frame, or None after the last."""
        good, pixels = self._video.read()
        if not good:
            return None
        self._sequence += 1
        return Frame(np.asarray(pixels, np.uint8), self._sequence, self._clock.now().monotonic_ms, self._source)

    def close(self) -> None:
        """Release the file."""
        self._video.release()


class LiveCamera:
    """A device or a network stream: its own thread reads, the newest frame wins, an unread one is dropped.

    Args:
        source: device number or URL.
        size_px: width, height asked of a device.
        stale_after_s: longest wait for a new frame.

    Raises:
        CameraError: it cannot be opened.
    """

    def __init__(self, source: str, size_px: tuple[int, int], stale_after_s: float, clock: Clock) -> None:
        self._video, self._clock, self._source, self._size_px = _open(source, *size_px), clock, source, size_px
        self._stale_after_s = stale_after_s
        self._newest: Frame | None = None
        self._arrived, self._closed = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._pump, name="capture", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """Return the newest frame not yet read, waiting for one.

        Raises:
            CameraError: none came in time; the stream is reopened in the background.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._newest is not None, self._stale_after_s):
                raise CameraError(
                    f"camera {self._source}: no frame for {self._stale_after_s:g} s; check cable, power, address"
                )
            frame, self._newest = self._newest, None
        return frame

    def close(self) -> None:
        """Stop reading and release the device."""
        self._closed.set()
        self._thread.join(timeout=self._stale_after_s)

    def _pump(self) -> None:
        sequence = 0
        while not self._closed.is_set():
            try:
                good, pixels = self._video.read()
                if not good:
                    self._closed.wait(_REOPEN_S)
                    self._video.release()
                    self._video = _open(self._source, *self._size_px)
                    continue
            except (CameraError, cv2.error):
                continue  # read() says in words that no frame comes; here it is tried again
            sequence += 1
            frame = Frame(np.asarray(pixels, np.uint8), sequence, self._clock.now().monotonic_ms, self._source)
            with self._arrived:
                self._newest = frame
                self._arrived.notify()
        # Released by the thread that reads: a device taken away under a read can crash the process.
        self._video.release()


class WorldCamera:
    """Looks at a simulated world, at a steady pace."""

    def __init__(self, world: World, fps: float, clock: Clock) -> None:
        self._world, self._clock, self._sequence = world, clock, 0
        self._period_ms, self._next_ms = (1000 / fps if fps else 0.0), 0.0

    def read(self) -> Frame | None:
        """Return the next frame, or None when the world has ended."""
        now_ms = self._clock.now().monotonic_ms
        if self._period_ms:
            self._next_ms = max(self._next_ms + self._period_ms, now_ms)
            time.sleep((self._next_ms - now_ms) / 1000)
        pixels = self._world.look()
        if pixels is None:
            return None
        self._sequence += 1
        return Frame(pixels, self._sequence, self._clock.now().monotonic_ms, "world")

    def close(self) -> None:
        """Nothing to release."""


def open_camera(config: CameraConfig, state: Path, clock: Clock) -> tuple[Camera, World | None]:
    """Open the configured camera; for folder and simulator also return the world it looks at.

    Raises:
        CameraError, DatasetError: it cannot be opened; the message says what to check.
    """
    size_px = (config.width_px, config.height_px)
    if config.kind == "file":
        return VideoFile(config.source, clock), None
    if config.kind in ("device", "url"):
        return LiveCamera(config.source, size_px, config.stale_after_s, clock), None
    items: Items
    count: int | None
    if config.kind == "folder":
        pictures = _pictures(Path(config.source), config.split)
        items, count = Photographs(pictures, config.seed), config.items or len(pictures.samples)
    else:
        items, count = SimulatedItems(config.seed, MATERIALS_1.ordered(config.labels or CATALOGUE)), config.items
    world = World(items, count, size_px, config.seed, state / "truth.jsonl", dark_floor=config.kind == "folder")
    return WorldCamera(world, config.fps, clock), world


def _pictures(root: Path, split: str) -> Dataset:
    if not root.is_dir():
        raise CameraError(f"camera.source: no such folder: {root}")
    try:
        dataset = open_dataset(root)
    except DatasetError:
        dataset = None  # pictures without labels are items as well
    if dataset:
        return dataset.select(split) if split else dataset
    samples = tuple(Sample(p, p.name, "", "", p.name) for p in image_paths(root))
    if not samples:
        raise CameraError(f"camera.source: no picture in {root}")
    return Dataset(root.name, samples)


def _open(source: str, width_px: int | None, height_px: int | None) -> cv2.VideoCapture:
    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not video.isOpened():
        raise CameraError(f"camera {source}: cannot be opened; check that it exists, is free, and that you may read it")
    if width_px and height_px:
        video.set(cv2.CAP_PROP_FRAME_WIDTH, width_px)
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, height_px)
    return video
