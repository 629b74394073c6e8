"""Fixtures that several test folders share.

Nothing here needs torch: the edge tests also run in a bare environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundle import small_bundle

from vision.bundle import DIGEST_KEY, MANIFEST_KEY
from vision.events import ItemEvent
from vision.notes import Note
from vision.onnx_file import read_onnx, stamp

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "edge_runtime" / "bundles" / "int8.onnx"
SHARED = Path(os.environ.get("BINSIGHT_SHARED", ROOT.parent / "shared"))


@pytest.fixture
def shared() -> Path:
    """Folder of the real photographs and weights beside the repository."""
    if not (SHARED / "data" / "trashnet" / "splits.csv").is_file():
        pytest.skip(f"the real photographs are not there: {SHARED}")
    return SHARED


@pytest.fixture
def shipped() -> Path:
    """The int8 bundle that ships, for tests of what ships; all other tests take `bundle`."""
    return SHIPPED


@pytest.fixture
def bundle() -> Path:
    """A small bundle with the labels of the one that ships; not to be changed."""
    return small_bundle()


@pytest.fixture
def make_event() -> Callable[..., ItemEvent]:
    """Build an event; any field may be overridden."""

    def make(**changes: Any) -> ItemEvent:
        fields: dict[str, Any] = {
            "wall_utc_ms": 1_790_000_000_000,
            "monotonic_ms": 5000,
            "boot_id": "boot",
            "clock_synced": True,
            "model_digest": "m" * 64,
            "rule_book": "eu-low",
            "rule_book_version": "1",
            "label": "glass",
            "confidence": 0.93,
            "margin": 0.9,
            "second_label": "plastic",
            "unknown_score": 0.05,
            "decision": "known",
            "stream": "glass",
            "reason": "glass at 0.93",
            "outcome": "moved",
            "preprocess_ms": 0.2,
            "inference_ms": 2.1,
            "total_ms": 2.6,
            "brightness": 120.0,
            "sharpness": 300.0,
        }
        return ItemEvent(**{**fields, **changes})

    return make


@pytest.fixture
def make_note() -> Callable[..., Note]:
    """Build a note; any field may be overridden."""

    def make(**changes: Any) -> Note:
        fields: dict[str, Any] = {
            "kind": "status",
            "wall_utc_ms": 1_790_000_000_000,
            "monotonic_ms": 5000,
            "boot_id": "boot",
            "clock_synced": True,
        }
        return Note(**{**fields, **changes})

    return make


@pytest.fixture
def restamp(tmp_path: Path) -> Callable[..., Path]:
    """Write a copy of the small bundle with another manifest, whose digests are in order."""

    def write(name: str = "changed.onnx", **changes: Any) -> Path:
        data = small_bundle().read_bytes()
        _, metadata = read_onnx(data)
        text = json.dumps({**json.loads(metadata[MANIFEST_KEY]), **changes})
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = tmp_path / name
        path.write_bytes(stamp(data, {MANIFEST_KEY: text, DIGEST_KEY: digest}))
        return path

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of small images in class folders: 12 of glass, 12 of paper."""
    import cv2

    rng = np.random.default_rng(0)
    for label, grey in (("glass", 60), ("paper", 200)):
        for i in range(12):
            folder = tmp_path / "set" / label
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(grey + rng.integers(-20, 20, (48, 64, 3)), 0, 255).astype(np.uint8)
            # An evenly lit image without anything on it shows no item.
            pixels[14:34, 20:44] = 255 - grey
            cv2.imwrite(str(folder / f"{i:02}.png"), pixels)
    return tmp_path / "set"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A real mosquitto on a free port; its address."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", ""))
    if program is None:
        pytest.skip("no mosquitto on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    process = subprocess.Popen(
        [program, "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
