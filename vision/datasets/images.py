"""Read one image from disk, or raise an error that names the file and the reason.

Training, evaluation and `binsight classify` all use it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision import MAX_IMAGE_PIXELS
from vision.errors import ImageError
from vision.frames import Pixels

# A file with such a name is an image; if it is damaged, that is reported. A file with another name
# is an image if OpenCV knows its first bytes.
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".jp2",
    ".pgm",
    ".ppm",
)
MAX_IMAGE_BYTES = 64 * 1024 * 1024
# Some cameras leave a few bytes between the image and its end mark; more than this is the rest of a
# damaged image.
_PADDING_BYTES = 64
_decoding = threading.Lock()


def read_image(path: Path) -> Pixels:
    """Read an image as every viewer shows it: upright, and white where it is transparent.

    Upright means that the EXIF orientation is applied.

    Returns:
        uint8, height x width x 3, BGR.

    Raises:
        ImageError: missing, empty, truncated, damaged, larger than the limits, or not an image.
    """
    name = shown(path)
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise ImageError(
                f"{name}: {size / 1e6:.0f} MB is more than the {MAX_IMAGE_BYTES / 1e6:.0f} MB limit"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if _is_truncated(data):
        raise ImageError(f"{name}: the image is truncated; its end is missing")
    try:
        pixels, warning = _decoded(data, cv2.IMREAD_COLOR)
        if pixels is not None and _may_be_transparent(data):
            pixels = _on_white(data, pixels)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in str(error) or "pixels" in str(error):
            limit = MAX_IMAGE_PIXELS // 2**20
            raise ImageError(
                f"{name}: more than {limit} megapixels; refused before decoding"
            ) from error
        raise ImageError(f"{name}: cannot be decoded ({error.err})") from error
    if pixels is None:
        raise ImageError(
            f"{name}: not an image in a known format ({', '.join(IMAGE_SUFFIXES)}), or damaged"
        )
    if warning:
        raise ImageError(f"{name}: the image is damaged; a part of it is missing ({warning})")
    return np.asarray(pixels, dtype=np.uint8)


def shown(path: Path | str) -> str:
    """Return a file's name for people, with bytes that are not UTF-8 escaped.

    Every terminal and page can show it.
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def image_paths(root: Path) -> list[Path]:
    """Return all images under a folder, sorted; see `scan`."""
    return scan(root)[0]


def scan(root: Path) -> tuple[list[Path], Counter[str]]:
    """Find all images under a folder.

    Links to folders are followed; hidden files and folders are left out.

    Returns:
        The images, sorted, and counts of what else there is: other files below the folder's own
        level by suffix, links to nowhere, folders that may not be read.
    """
    images: list[Path] = []
    others = Counter[str]()
    chains: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, names, files in os.walk(
        root, onerror=lambda _: others.update(["unreadable folder"]), followlinks=True
    ):
        chain = chains.pop(folder)
        kept = []
        for name in sorted(map(str, names)):
            below = os.path.join(folder, name)  # noqa: PTH118  os.walk returns text
            real = os.path.realpath(below)
            # Following a link to a folder above it would never end.
            if not name.startswith(".") and real not in chain:
                chains[below] = (*chain, real)
                kept.append(name)
        names[:] = kept
        for name in files:
            path = Path(folder) / name
            if name.startswith("."):
                continue
            if not path.is_file():
                others["dead link" if path.is_symlink() else "no file"] += 1
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES or _looks_like_an_image(path):
                images.append(path)
            elif Path(folder) != root:
                others[path.suffix.lower() or "(no suffix)"] += 1
    return sorted(images), others


def _looks_like_an_image(path: Path) -> bool:
    try:
        return bool(cv2.haveImageReader(str(path)))
    except (cv2.error, UnicodeEncodeError):  # OpenCV takes no name that is not UTF-8
        return False


def _decoded(data: bytes, flags: int) -> tuple[NDArray[Any] | None, str]:
    """Decode an image; return its pixels, and the decoder's warning about missing parts.

    libjpeg and libtiff fill what is missing, call it a success, and report it on the process's
    standard error alone. So standard error is read while an image is decoded, one image at a time;
    what others write there meanwhile is passed on.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    with _decoding, _scratch() as captured:
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = _duplicate(2)
        try:
            os.dup2(captured.fileno(), 2)
            pixels = cv2.imdecode(buffer, flags)
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
            captured.seek(0)
            lines = captured.read().splitlines(keepends=True)
            others = b"".join(line for line in lines if not _DECODER_SAYS.search(line))
            while others and kept is not None:
                others = others[os.write(2, others) :]
    damage = [
        line.strip().decode()
        for line in lines
        if _DECODER_SAYS.search(line) and not _is_padding(line)
    ]
    return pixels, "; ".join(damage)


def _duplicate(descriptor: int) -> int | None:
    """Return a copy of an open file descriptor, None if it is closed.

    Services may be started without standard error.
    """
    try:
        return os.dup(descriptor)
    except OSError:
        return None


def _scratch() -> IO[bytes]:
    """Return a file in memory where the system has such files, because the disk may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("decoder"), "w+b")
    return tempfile.TemporaryFile()


# Source: libjpeg-turbo's jerror.h, libtiff's and libpng's messages: the words that mean lost
# image data.
_DECODER_SAYS = re.compile(
    rb"Corrupt JPEG data|Premature end of JPEG|Unsupported marker type"
    rb"|Inconsistent progression sequence|TIFF_Error|Not enough data|LZWDecode|libpng error"
    rb"|libpng warning: .*(CRC|Read Error|Not enough)"
)
_EXTRANEOUS = re.compile(rb"Corrupt JPEG data: (\d+) extraneous bytes")


def _is_padding(line: bytes) -> bool:
    found = _EXTRANEOUS.search(line)
    return bool(found and int(found[1]) <= _PADDING_BYTES)


def _may_be_transparent(data: bytes) -> bool:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[25] in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")]
    if data[:2] == b"BM":  # a header of version 4 may name a mask of its transparency
        return int.from_bytes(data[14:18], "little") >= 56 and any(data[66:70])
    return data[:2] != b"\xff\xd8"  # a JPEG has no transparency


def _on_white(data: bytes, upright: NDArray[Any]) -> NDArray[Any]:
    """Return the image composed on white.

    `upright` is the same image without its transparency, turned as EXIF says.
    """
    whole = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    hidden = _hidden_grey(data)
    if whole is not None and hidden is not None:
        # OpenCV ignores the transparent value of a grey PNG.
        grey = whole if whole.ndim == 2 else whole[..., 0]
        opaque = np.iinfo(grey.dtype).max
        alpha = np.where(grey == hidden, 0, opaque).astype(grey.dtype)
        whole = np.dstack([grey, grey, grey, alpha])
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4:
        return upright
    full = np.iinfo(whole.dtype).max if np.issubdtype(whole.dtype, np.integer) else 1
    scaled = whole.astype(np.float32) * np.float32(255 / full)
    turns = [t for t in _TURNS if t(scaled).shape[:2] == upright.shape[:2]]
    scaled = min(turns, key=lambda t: float(np.abs(t(scaled)[..., :3] - upright).mean()))(scaled)
    share = scaled[..., 3:] / 255
    return np.asarray(upright * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def _hidden_grey(data: bytes) -> int | None:
    """Return the value that a grey PNG declares transparent, as OpenCV gives it.

    Source: PNG specification, tRNS.
    """
    at = data.find(b"tRNS", 0, max(data.find(b"IDAT"), 0))
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25] != 0 or at < 0:
        return None
    depth = data[24]
    value = int.from_bytes(data[at + 4 : at + 6], "big")
    return value if depth >= 8 else value * 255 // ((1 << depth) - 1)


def _turned(mirror: bool, turn: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rot90(image[:, ::-1] if mirror else image, turn)


# The eight ways in which EXIF may turn an image: OpenCV's flag that keeps transparency does not
# apply EXIF.
_TURNS = tuple(partial(_turned, mirror, turn) for mirror, turn in product((False, True), range(4)))


def _is_truncated(data: bytes) -> bool:
    # OpenCV fills the missing rest of a JPEG or PNG with grey and calls it a success. What follows
    # the end is allowed: telephones append videos to their photographs.
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
    """Walk a JPEG's segments and scans to its end-of-image marker.

    Source: ITU-T T.81, annex B.
    """
    at = 2
    scanned = False
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return scanned
        # A stuffed byte, a fill byte or a restart begins no segment.
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        scanned |= marker == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
