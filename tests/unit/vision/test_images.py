"""read_image: an image, upright, or an error that names the file."""

import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision.datasets import image_paths, read_image, scan, shown
from vision.errors import ImageError


def _photo() -> np.ndarray:
    y, x = np.mgrid[0:120, 0:160]
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def _png_header(width: int, height: int) -> bytes:
    """A tiny PNG file that declares any size: header, an empty data chunk, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


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
def test_truncated_image_is_an_error_and_not_a_grey_half(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"half{suffix}"
    cv2.imwrite(str(path), _photo())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_video_after_the_photograph_does_no_harm(tmp_path: Path, suffix: str) -> None:
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


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)]
)
def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"odd\.jpg"):
        read_image(path)


def test_missing_image_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_image_paths_are_sorted_and_leave_hidden_files_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a/1.png", ".cache/x.png", "a/.y.png", "a/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [p.relative_to(tmp_path).as_posix() for p in image_paths(tmp_path)] == [
        "a/1.png",
        "b/2.JPG",
    ]


def test_a_jpeg_whose_middle_is_missing_is_damaged_although_its_end_is_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noisy)[1].tobytes()
    path = tmp_path / "broken.jpg"
    for keep in (1 / 3, 0.8):
        path.write_bytes(data[: int(len(data) * keep)] + b"\xff\xd9")
        with pytest.raises(
            ImageError, match=r"broken\.jpg: the image is damaged; a part of it is missing"
        ):
            read_image(path)
    path.write_bytes(data[:-2] + bytes(40) + b"\xff\xd9")  # cameras pad their images
    assert read_image(path).shape == (240, 320, 3)
    # libjpeg's own warning is read and not printed beside ours.
    assert "JPEG" not in capfd.readouterr().err


def test_what_others_write_to_standard_error_while_images_are_decoded_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), cv2.resize(_photo(), (1600, 1200)))
    written = 0
    done = threading.Event()

    def write() -> None:
        nonlocal written
        while not done.is_set():
            os.write(2, b"somebody else\n")
            written += 1

    other = threading.Thread(target=write)
    other.start()
    for _ in range(8):
        read_image(path)
    done.set()
    other.join()
    assert written > 8
    assert capfd.readouterr().err.count("somebody else\n") == written


def test_images_are_read_where_standard_error_is_closed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), _photo())
    code = "import sys; from pathlib import Path; from vision.datasets import read_image; "
    code += f"print(read_image(Path({str(tmp_path / 'a.jpg')!r})).shape, sys.stderr)"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(120, 160, 3) None"


def _transparent(hidden: tuple[int, int, int], kind: np.dtype | type = np.uint8) -> np.ndarray:
    """A grey square on a transparent ground whose hidden colour nobody sees."""
    full = np.iinfo(kind).max
    image = np.zeros((60, 80, 4), kind)
    image[..., :3] = np.array(hidden) / 255 * full
    image[20:40, 30:50] = (full // 2, full // 2, full // 2, full)
    return image


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_a_transparent_image_is_seen_on_white_whatever_colour_is_hidden(
    tmp_path: Path, suffix: str, kind: type
) -> None:
    if kind is np.uint16 and suffix == ".webp":
        pytest.skip("WebP has 8 bits")
    for hidden in ((0, 0, 0), (10, 200, 30)):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), _transparent(hidden, kind), [cv2.IMWRITE_WEBP_QUALITY, 101])
        pixels = read_image(path)
        assert (pixels[5, 5].tolist(), pixels.dtype) == ([255, 255, 255], np.uint8)
        assert np.abs(pixels[30, 40].astype(int) - 127).max() <= 1
    half = _transparent((0, 0, 0))
    half[..., 3] = 128
    half[..., :3] = 0
    cv2.imwrite(str(tmp_path / "half.png"), half)
    assert np.abs(read_image(tmp_path / "half.png").astype(int) - 127).max() <= 1


def test_a_grey_image_with_one_transparent_value_is_seen_on_white(tmp_path: Path) -> None:
    grey = np.full((40, 50), 90, np.uint8)
    grey[10:20, 10:20] = 0
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), grey)
    data = path.read_bytes()
    hidden = b"\x00\x00"
    chunk = (
        struct.pack(">I", 2) + b"tRNS" + hidden + struct.pack(">I", zlib.crc32(b"tRNS" + hidden))
    )
    path.write_bytes(data[:33] + chunk + data[33:])
    pixels = read_image(path)
    assert (pixels[15, 15].tolist(), pixels[5, 5].tolist()) == ([255] * 3, [90] * 3)


def test_a_bitmap_with_a_mask_of_transparency_is_seen_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 4), np.uint8)
    pixels[2:, :] = (10, 20, 30, 255)
    masks = b"".join(m.to_bytes(4, "little") for m in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    header = (
        struct.pack("<IiiHHIIiiII", 108, 5, -4, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0)
        + masks
        + bytes(52)
    )
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 122 + pixels.nbytes, 0, 0, 122) + header + pixels.tobytes()
    )
    seen = read_image(tmp_path / "a.bmp")
    assert (seen[0, 0].tolist(), seen[3, 0].tolist()) == ([255] * 3, [10, 20, 30])


def test_a_damaged_tiff_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    refused = 0
    for seed in range(10):
        damaged = bytearray(data)
        at = int(np.random.default_rng(seed).integers(200, len(data) // 2))
        damaged[at : at + 400] = np.random.default_rng(seed).bytes(400)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except ImageError:
            refused += 1
    assert refused >= 5  # a damaged file may still be a valid image


def test_a_transparent_image_that_exif_turns_is_composed_upright(tmp_path: Path) -> None:
    image = np.full((60, 80, 4), 255, np.uint8)
    image[:, :, :3] = np.random.default_rng(0).integers(0, 255, (60, 80, 3))
    image[:30, :, 3] = 0  # the upper half is not seen
    path = tmp_path / "turned.png"
    cv2.imwrite(str(path), image)
    data = path.read_bytes()
    # One entry: orientation 3, half a turn.
    exif = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03"
    exif += b"\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00"
    chunk = (
        struct.pack(">I", len(exif))
        + b"eXIf"
        + exif
        + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    )
    path.write_bytes(data[:33] + chunk + data[33:])
    pixels = read_image(path)
    lower_is_white = bool((pixels[30:] == 255).all())
    upper_is_white = bool((pixels[:30] == 255).all())
    assert lower_is_white != upper_is_white
    colour = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    seen = pixels[:30] if lower_is_white else pixels[30:]
    assert np.array_equal(seen, colour[:30] if lower_is_white else colour[30:])


def test_what_opencv_decodes_is_an_image_and_the_rest_is_counted_by_suffix(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "paper"
    folder.mkdir(parents=True)
    jpeg = cv2.imencode(".jpg", _photo())[1].tobytes()
    for name in ("a.jfif", "b.JPE", "c.jpg", "no-suffix", "d.photo"):
        (folder / name).write_bytes(jpeg)
    (folder / "damaged.jpg").write_bytes(b"no image")
    for name in ("phone.heic", "phone2.HEIC", "notes.txt"):
        (folder / name).write_bytes(b"something else")
    (tmp_path / "set" / "README.md").write_text("about the set")
    (folder / "dead.jpg").symlink_to("nowhere")
    images, others = scan(tmp_path / "set")
    assert others.pop("dead link") == 1
    assert [p.name for p in images] == [
        "a.jfif",
        "b.JPE",
        "c.jpg",
        "d.photo",
        "damaged.jpg",
        "no-suffix",
    ]
    assert dict(others) == {".heic": 2, ".txt": 1}
    assert read_image(folder / "a.jfif").shape == (120, 160, 3)


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "set" / "glass").mkdir(parents=True)
    (tmp_path / "elsewhere" / "paper").mkdir(parents=True)
    for folder in (tmp_path / "set" / "glass", tmp_path / "elsewhere" / "paper"):
        cv2.imwrite(str(folder / "a.png"), _photo())
    (tmp_path / "set" / "paper").symlink_to("../elsewhere/paper")
    (tmp_path / "set" / "glass" / "round").symlink_to("..")
    (tmp_path / "elsewhere" / "paper" / "back").symlink_to(tmp_path / "set")
    found = [p.relative_to(tmp_path / "set").as_posix() for p in image_paths(tmp_path / "set")]
    assert found == ["glass/a.png", "paper/a.png"]


def test_a_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"gr\xfcn.jpg")
    assert shown(path).endswith(r"gr\xfcn.jpg")
    with pytest.raises(ImageError, match=r"gr\\xfcn\.jpg: cannot be read") as caught:
        read_image(path)
    str(caught.value).encode()
