"""Cameras come and go; the bin stays.

The stream here is a real HTTP server that is cut and restored.
"""

import http.server
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs import load
from edge_runtime.cameras.factory import open_camera
from edge_runtime.cameras.live import LiveCamera
from edge_runtime.cameras.picamera import PiCamera
from edge_runtime.cameras.recorder import Recorder
from edge_runtime.cameras.video_file import VideoFile
from edge_runtime.clock import SystemClock
from edge_runtime.config import (
    CameraConfig,
    DeviceCameraConfig,
    EdgeConfig,
    FileCameraConfig,
    FolderCameraConfig,
    SimulatorCameraConfig,
    UrlCameraConfig,
)
from edge_runtime.rules import load_rules
from vision.errors import CameraError, DatasetError
from vision.frames import Frame


class MjpegServer:
    """What a network camera serves.

    JPEG after JPEG in one answer, twenty a second, each with its number as colour.
    """

    def __init__(self, port: int = 0) -> None:
        self.alive = threading.Event()
        self.pace = threading.Event()  # never set
        self.frozen = False
        self.number = 0
        self.alive.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                rng = np.random.default_rng(0)
                try:
                    while outer.alive.is_set():
                        outer.number += not outer.frozen
                        noise = np.random.default_rng(1) if outer.frozen else rng
                        pixels = noise.integers(60, 190, (48, 64, 3)).astype(np.uint8)
                        jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
                        head = (
                            "--next\r\nContent-Type: image/jpeg\r\n"
                            f"Content-Length: {len(jpeg)}\r\n\r\n"
                        )
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                        outer.pace.wait(0.05)
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def cut(self) -> None:
        self.alive.clear()
        self._server.shutdown()
        self._server.server_close()


def _read_within(camera: object, seconds: float) -> Frame | str:
    """Return the first frame, or the last complaint after so long."""
    end = time.monotonic() + seconds
    complaint = ""
    while time.monotonic() < end:
        try:
            frame = camera.read()  # type: ignore[attr-defined]
            assert frame is not None
            return frame
        except CameraError as error:
            complaint = str(error)
    return complaint


def test_a_stream_that_is_cut_is_noticed_within_five_seconds_and_comes_back_by_itself(
    tmp_path: Path,
) -> None:
    server = MjpegServer()
    config = UrlCameraConfig(
        source=f"http://127.0.0.1:{server.port}/stream.mjpg", stale_after_s=2.0
    )
    camera, _ = open_camera(config, tmp_path, SystemClock())
    try:
        first = _read_within(camera, 10)
        assert isinstance(first, Frame)
        assert first.pixels_hwc.shape == (48, 64, 3)
        server.cut()
        cut = time.monotonic()
        complaint = ""
        while not complaint:
            try:
                camera.read()
            except CameraError as error:
                complaint = str(error)
        assert time.monotonic() - cut < 5
        assert "127.0.0.1" in complaint
        again = MjpegServer(server.port)
        later = _read_within(camera, 10)
        assert isinstance(later, Frame)
        assert later.sequence > first.sequence
        again.cut()
    finally:
        camera.close()


def test_a_camera_that_is_not_there_is_waited_for_and_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = f"http://127.0.0.1:{port}/stream.mjpg"
    camera, _ = open_camera(
        UrlCameraConfig(source=source, stale_after_s=0.5), tmp_path, SystemClock()
    )
    try:
        assert "cannot be opened; check that it exists" in str(_read_within(camera, 1.5))
        server = MjpegServer(port)
        assert isinstance(_read_within(camera, 15), Frame)
        server.cut()
    finally:
        camera.close()


def test_a_device_number_that_is_not_there_says_what_to_check(tmp_path: Path) -> None:
    camera, _ = open_camera(
        DeviceCameraConfig(source="97", stale_after_s=0.5), tmp_path, SystemClock()
    )
    assert "camera 97: cannot be opened" in str(_read_within(camera, 1.5))
    camera.close()


class _Counted:
    """A device that gives a few frames and is then pulled out, each time it is opened."""

    opened = 0

    def __init__(self, frames: int) -> None:
        type(self).opened += 1
        self._left = frames

    def read(self) -> tuple[bool, object]:
        if not self._left:
            raise OSError("pulled out")
        self._left -= 1
        threading.Event().wait(0.02)
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("frames", [3, 10**9])
def test_a_device_is_opened_again_when_it_is_pulled_out_and_when_it_is_asked_for(
    frames: int,
) -> None:
    _Counted.opened = 0
    camera = LiveCamera(lambda: _Counted(frames), "double", 2.0, SystemClock())
    numbers = []
    end = time.monotonic() + 10
    while _Counted.opened < 3 and time.monotonic() < end:
        frame = camera.read()
        assert frame is not None
        numbers.append(frame.sequence)
        if frames > 3:
            camera.restart()
    camera.close()
    assert _Counted.opened >= 3
    assert numbers == sorted(set(numbers))


def test_the_raspberry_pi_camera_is_asked_for_what_opencv_calls_bgr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []

    class Picamera2:
        def create_video_configuration(self, **message: object) -> dict[str, object]:
            return message

        def configure(self, message: object) -> None:
            calls.append(message)

        def start(self) -> None:
            calls.append("start")

        def capture_array(self, name: str) -> np.ndarray:
            return np.zeros((48, 64, 3), np.uint8)

        def stop(self) -> None:
            calls.append("stop")

        def close(self) -> None:
            calls.append("close")

    module = types.ModuleType("picamera2")
    module.Picamera2 = Picamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    camera = PiCamera((64, 48))
    good, pixels = camera.read()
    camera.release()
    assert (good, pixels.shape) == (True, (48, 64, 3))
    assert calls == [
        {"main": {"size": (64, 48), "format": "RGB888"}, "buffer_count": 2},
        "start",
        "stop",
        "close",
    ]


def test_a_host_without_picamera2_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(CameraError, match="apt install python3-picamera2"):
        PiCamera((64, 48))


def test_a_recording_of_what_the_camera_saw_can_be_played_and_ends_by_itself(
    tmp_path: Path, make_frames: Callable[[int], list[Frame]]
) -> None:
    class Given:
        def __init__(self) -> None:
            self.frames = iter(make_frames(8))

        def read(self) -> Frame | None:
            return next(self.frames, None)

        hung = False

        def restart(self) -> None:
            pass

        def close(self) -> None:
            pass

    recorder = Recorder(Given(), tmp_path / "recording.avi", 10, frames=5)
    while recorder.read() is not None:
        pass
    recorder.close()
    recording = VideoFile(str(tmp_path / "recording.avi"), SystemClock())
    seen = 0
    while recording.read() is not None:
        seen += 1
    recording.close()
    assert seen == 5


@pytest.fixture
def make_frames() -> Callable[[int], list[Frame]]:
    rng = np.random.default_rng(0)
    return lambda count: [
        Frame(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8), i, 0.0) for i in range(count)
    ]


@pytest.mark.parametrize("where", ["opening", "reading", "releasing"])
def test_a_driver_that_does_not_come_back_is_reported_wherever_it_hangs(
    tmp_path: Path, where: str
) -> None:
    over = threading.Event()

    def hang(at: str) -> None:
        if at == where:
            over.wait(20)

    class Hanging:
        def __init__(self) -> None:
            hang("opening")

        def read(self) -> tuple[bool, object]:
            hang("reading")
            return False, None

        def release(self) -> None:
            hang("releasing")

    camera = Recorder(
        LiveCamera(Hanging, "double", 0.1, SystemClock(), hung_after_s=0.2),
        tmp_path / "recording.avi",
        10.0,
    )
    assert not camera.hung
    end = time.monotonic() + 5
    while not camera.hung and time.monotonic() < end:
        threading.Event().wait(0.02)
    hung = camera.hung
    over.set()
    camera.close()
    assert hung


@pytest.mark.parametrize(
    "source", ["0", "/dev/video0", "/dev/v4l/by-id/usb-Maker_Camera-video-index0"]
)
def test_a_device_is_asked_for_its_size_whatever_it_is_called(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, float] = {}

    class Video:
        def __init__(self, *_: object) -> None:
            pass

        def isOpened(self) -> bool:
            return True

        def set(self, key: int, value: float) -> None:
            asked[key] = value

        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((48, 64, 3), np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Video)
    config = DeviceCameraConfig(source=source, width_px=1280, height_px=720)
    camera, _ = open_camera(config, Path(), SystemClock())
    try:
        camera.read()
    finally:
        camera.close()
    assert (asked[cv2.CAP_PROP_FRAME_WIDTH], asked[cv2.CAP_PROP_FRAME_HEIGHT]) == (1280, 720)


def test_a_video_file_is_read_to_its_end_and_a_live_camera_gives_its_newest_frame(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "recording.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    recording = VideoFile(path, SystemClock())
    clock = SystemClock()
    frames = []
    while (frame := recording.read()) is not None:
        frames.append(frame)
    recording.close()
    assert [frame.sequence for frame in frames] == list(range(1, 13))
    assert [round(frame.pixels_hwc.mean() / 20) for frame in frames] == list(range(12))
    live = LiveCamera(lambda: cv2.VideoCapture(path), path, 5.0, clock)
    numbers = [live.read() for _ in range(3)]
    live.close()
    sequence = [frame.sequence for frame in numbers if frame]
    assert len(sequence) == 3
    assert sequence == sorted(set(sequence))


def test_rule_books_that_ship_go_by_name_and_a_device_by_number(tmp_path: Path) -> None:
    config = load(EdgeConfig, None, ["rules=eu-low", "camera.kind=device", "camera.source=0"])
    assert isinstance(config.camera, DeviceCameraConfig)
    assert (load_rules(config.rules).id, config.camera.source) == ("eu-low", "0")
    with pytest.raises(DatasetError, match="labels not in taxonomy"):
        open_camera(SimulatorCameraConfig(labels=("wood",)), tmp_path, SystemClock())


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (FileCameraConfig(source="none.mp4"), r"camera none\.mp4: cannot be opened"),
        (FolderCameraConfig(source="none"), "no such folder"),
    ],
)
def test_cameras_that_are_not_there_say_what_to_check(
    tmp_path: Path, config: CameraConfig, complaint: str
) -> None:
    with pytest.raises(CameraError, match=complaint):
        open_camera(config, tmp_path, SystemClock())
