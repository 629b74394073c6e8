"""OpenCV's way to a video: a device by number or path, an address, or a file."""

from __future__ import annotations

import cv2

from vision.addresses import without_secrets
from vision.errors import CameraError

_NETWORK_MS = 3000


def open_video(
    source: str, width_px: int | None = None, height_px: int | None = None
) -> cv2.VideoCapture:
    """Open a device, an address or a file.

    Args:
        source: number or path of a device, an address, or a file.
        width_px: asked of a device; None for a file.
        height_px: the same.

    Raises:
        CameraError: it cannot be opened.
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
