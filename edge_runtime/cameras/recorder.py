"""Passes on what a camera sees and records it, to be replayed."""

from __future__ import annotations

from pathlib import Path

import cv2

from vision.errors import CameraError
from vision.frames import Camera, Frame


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
        return self._camera.hung

    def restart(self) -> None:
        """Open the device again."""
        self._camera.restart()

    def close(self) -> None:
        """Finish the recording and release the device."""
        if self._writer is not None:
            self._writer.release()
        self._camera.close()
