"""Reading one picture from disk, or saying exactly why not. Training, evaluation and `binsight classify` all use it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vision import MAX_IMAGE_PIXELS
from vision.errors import ImageError
from vision.frames import Pixels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_IMAGE_BYTES = 64 * 1024 * 1024


def read_image(path: Path) -> Pixels:
    """Read a picture, upright (EXIF orientation applied).

    Returns:
        uint8, height x width x 3, BGR.

    Raises:
        ImageError: missing, empty, truncated, larger than the limits, or not a picture.
    """
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise ImageError(f"{path}: {size / 1e6:.0f} MB is more than the {MAX_IMAGE_BYTES / 1e6:.0f} MB limit")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise ImageError(f"{path}: the file is empty")
    if _is_truncated(data):
        raise ImageError(f"{path}: the picture is truncated; its end is missing")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in str(error) or "pixels" in str(error):
            limit = MAX_IMAGE_PIXELS // 2**20
            raise ImageError(f"{path}: more than {limit} megapixels; refused before decoding") from error
        raise ImageError(f"{path}: cannot be decoded ({error.err})") from error
    if pixels is None:
        raise ImageError(f"{path}: not a picture in a known format ({', '.join(IMAGE_SUFFIXES)}), or damaged")
    return np.asarray(pixels, dtype=np.uint8)


def image_paths(root: Path) -> list[Path]:
    """Return all pictures under a folder by suffix, sorted; hidden files and folders are left out."""
    return sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )


def _is_truncated(data: bytes) -> bool:
    # OpenCV fills the missing rest of a JPEG or PNG with grey and calls it a success. What follows the end is allowed:
    # telephones append films to their photographs.
    if data[:3] == b"\xff\xd8\xff":
        return not _jpeg_ends(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at + 12 <= len(data):
            if data[at + 4 : at + 8] == b"IEND":
                return False
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return True
    return False


def _jpeg_ends(data: bytes) -> bool:
    """Walk a JPEG's segments and scans to its end-of-image marker. Source: ITU-T T.81, annex B."""
    at, scanned = 2, False
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return scanned
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # stuffed byte, fill or restart: no segment
            at += 1 if marker == 0xFF else 2
            continue
        scanned |= marker == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
