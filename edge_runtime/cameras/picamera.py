"""The Raspberry Pi's camera. The bin's only address of picamera2, Debian's package on that host."""

from __future__ import annotations

from typing import Any

from vision.errors import CameraError


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
            from picamera2 import Picamera2  # noqa: PLC0415  only this host has it

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
