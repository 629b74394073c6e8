"""read_image: a picture, upright, or an error that names the file."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision.datasets import image_paths, read_image
from vision.errors import ImageError


def _photo() -> np.ndarray:
    y, x = np.mgrid[0:120, 0:160]
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def _png_header(width: int, height: int) -> bytes:
    """A tiny PNG file that declares any size: header, an empty data chunk, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), _photo())
    pixels = read_image(path)
    assert pixels.shape == (120, 160, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - _photo()).mean() < 6


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_picture_is_an_error_and_not_a_grey_half(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), _photo())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match="cut"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_film_after_the_photograph_does_no_harm(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"motion{suffix}"
    cv2.imwrite(str(path), _photo())
    data = path.read_bytes()
    for seed in range(20):
        path.write_bytes(data + np.random.default_rng(seed).bytes(200_000))
        assert read_image(path).shape == (120, 160, 3)


def test_hundred_megapixel_png_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(_png_header(10_000, 10_000))
    with pytest.raises(ImageError, match=r"huge\.png.*megapixels"):
        read_image(path)


def test_real_hundred_megapixel_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    cv2.imwrite(str(path), np.zeros((10_000, 10_000, 3), np.uint8))
    assert path.stat().st_size < 2_000_000  # a small file, 300 MB of pixels
    with pytest.raises(ImageError, match="megapixels"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_picture_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"odd\.jpg"):
        read_image(path)


def test_missing_picture_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_image_paths_are_sorted_and_leave_hidden_files_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a/1.png", ".cache/x.png", "a/.y.png", "a/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in image_paths(tmp_path)] == ["a/1.png", "b/2.JPG"]
