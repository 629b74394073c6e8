"""Fetching a set from a real server on this machine.

What comes is checked, and half a set is never left behind.
"""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.public import PUBLIC_SETS, fetch
from vision.datasets import open_dataset
from vision.errors import DatasetError


def _archive(names: dict[str, bytes], packed: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as zipped:
        for name, data in names.items():
            zipped.writestr(name, data)
    return buffer.getvalue()


IMAGE = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
GOOD = _archive({"set/glass/a.jpg": IMAGE, "set/paper/b.jpg": IMAGE, "__MACOSX/x": b""})
_PACKED = bytearray(_archive({"set/glass/a.jpg": IMAGE * 4}, zipfile.ZIP_DEFLATED))
_PACKED[60:70] = bytes(byte ^ 0xFF for byte in _PACKED[60:70])  # within what was packed
DAMAGED = bytes(_PACKED)
DOTNET = _archive({"set\\glass\\a.jpg": IMAGE, "set\\paper\\b.jpg": IMAGE, "set\\": b""})
EVIL_DOTNET = _archive({"..\\outside.txt": b"x"})
EVIL = _archive({"set/glass/a.jpg": IMAGE, "../outside.txt": b"x"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if (
            self.path == "/chunked.zip"
        ):  # as GitHub sends its archives: no length, and the end may be missing
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(GOOD) + GOOD[: len(GOOD) // 2])
            return
        bodies = {
            "/good.zip": GOOD,
            "/evil.zip": EVIL,
            "/dotnet.zip": DOTNET,
            "/evil-dotnet.zip": EVIL_DOTNET,
            "/page.zip": b"<html>log in</html>",
            "/cut.zip": GOOD,
            "/damaged.zip": DAMAGED,
        }
        body = bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut.zip" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_set_is_fetched_checked_and_can_be_read(server: str, tmp_path: Path) -> None:
    wanted = hashlib.sha256(GOOD).hexdigest()
    done = fetch("trashnet", tmp_path / "set", f"{server}/good.zip", wanted)
    assert (done.files, done.sha256, done.verified, done.licence) == (
        2,
        wanted,
        "as expected",
        "MIT",
    )
    assert open_dataset(tmp_path / "set").labels() == {"glass", "paper"}
    assert open_dataset(tmp_path / "set").licence == "MIT"  # it stays with the images
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    with pytest.raises(DatasetError, match="is not empty"):
        fetch("trashnet", tmp_path / "set", f"{server}/good.zip")


@pytest.mark.parametrize(
    ("path", "sha256", "reason"),
    [
        ("/good.zip", "0" * 64, "was expected. Nothing was unpacked"),
        ("/evil.zip", None, "outside of the folder"),
        ("/evil-dotnet.zip", None, "outside of the folder"),
        ("/page.zip", None, "not a readable zip"),
        ("/damaged.zip", None, "not a readable zip"),
        ("/none.zip", None, "cannot be downloaded"),
        ("/cut.zip", None, r"broke off|cannot be downloaded"),
        ("/chunked.zip", None, "cannot be downloaded"),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(
    server: str, tmp_path: Path, path: str, sha256: str | None, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        fetch("trashnet", tmp_path / "set", server + path, sha256)
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path.parent / "outside.txt").exists()


def test_an_archive_beyond_the_limit_is_refused_while_it_comes(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int] = []
    monkeypatch.setattr("training.public.CHUNK_BYTES", 64)
    monkeypatch.setattr("training.public.MAX_ARCHIVE_BYTES", 200)
    with pytest.raises(DatasetError, match="refused"):
        fetch("trashnet", tmp_path / "set", f"{server}/good.zip", advance=came.append)
    assert sum(came) == 192
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/none.zip", "/chunked.zip", "/page.zip", "/good.zip"])
def test_an_address_is_shown_without_its_secrets(
    server: str, tmp_path: Path, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = server.replace("http://", "http://someone:hunter2@") + path
    with pytest.raises(DatasetError, match="127") as failure:
        fetch("trashnet", tmp_path / "set", secret, "0" * 64)
    with pytest.raises(DatasetError, match=r"cannot be downloaded .*refused") as unreachable:
        fetch("trashnet", tmp_path / "set", "http://someone:hunter2@127.0.0.1:1/x?key=hunter2")
    printed = capfd.readouterr()
    for text in (str(failure.value), str(unreachable.value), printed.out, printed.err):
        assert "hunter2" not in text


def test_a_zip_packed_on_windows_has_folders(server: str, tmp_path: Path) -> None:
    assert fetch("trashnet", tmp_path / "set", f"{server}/dotnet.zip").files == 2
    assert open_dataset(tmp_path / "set").labels() == {"glass", "paper"}
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["SOURCE.md", "set"]


def test_bad_names_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no public set 'garbage'; there are trashnet"):
        fetch("garbage", tmp_path / "x")
    with pytest.raises(DatasetError, match="not an http address"):
        fetch("trashnet", tmp_path / "x", "file:///etc/passwd")
    assert all(
        s.url.startswith("https://") and s.licence and s.source for s in PUBLIC_SETS.values()
    )
    assert not PUBLIC_SETS["realwaste"].shippable
