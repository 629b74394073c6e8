"""The bundle verifies itself before anything runs it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vision import onnx_file
from vision.bundle import (
    MANIFEST_KEY,
    bundle_digest,
    parse_bundle,
    probe_frame,
    read_manifest,
    write_bundle,
)
from vision.errors import BundleError


def test_manifest_survives_writing_and_reading(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    stored = write_bundle(
        tmp_path / "copy.onnx", bundle.read_bytes(), replace(manifest, model_id="other")
    )
    again = read_manifest(tmp_path / "copy.onnx")
    assert again.model_id == stored.model_id == "other"
    assert again.to_json() == stored.to_json()
    assert again.graph_sha256 == manifest.graph_sha256  # restamping leaves the graph's bytes alone
    assert bundle_digest(tmp_path / "copy.onnx") != bundle_digest(bundle)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.onnx"]  # no temporary file is left


def test_int8_graph_under_a_float_manifest_is_refused(restamp: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="manifest says fp32, the graph is int8"):
        read_manifest(restamp(precision="fp32"))


def test_writer_refuses_to_stamp_a_precision_that_the_graph_has_not(
    bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="asked to stamp fp32"):
        write_bundle(
            tmp_path / "x.onnx",
            bundle.read_bytes(),
            replace(read_manifest(bundle), precision="fp32"),
        )
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema": "binsight.bundle/99"}, "schema 'binsight.bundle/99'; this binsight reads"),
        ({"taxonomy": "materials-9"}, "unknown precision .* or taxonomy 'materials-9'"),
        ({"labels": ["paper", "glass"]}, "not distinct labels of materials-1 in its order"),
        ({"labels": []}, "not distinct labels"),
        ({"labels": ["wood"]}, "labels not in taxonomy"),
        ({"policy": {}}, "incomplete or malformed"),
        (
            {"probe": {"logits": [1.0], "tolerance": 1, "embedding": [1.0]}},
            "the probe has 1 logits for 6 labels",
        ),
        (
            {
                "preprocess": {
                    "width_px": -1,
                    "height_px": 224,
                    "fit": "crop",
                    "colour_order": "rgb",
                }
            },
            "outside",
        ),
        (
            {"probe": {"logits": [0.0] * 6, "tolerance": 1e999, "embedding": [1.0]}},
            "proves nothing",
        ),
        ({"probe": {"logits": [0.0] * 6, "tolerance": "x"}}, "incomplete or malformed"),
        (
            {"probe": {"logits": [0.0] * 6, "tolerance": 1, "embedding": [0.0] * 32}},
            "the probe's embedding is empty",
        ),
        ({"graph_sha256": "0" * 64}, "not the one its manifest was made for"),
    ],
)
def test_wrong_manifests_are_refused_with_the_reason(
    restamp: Callable[..., Path], changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(Exception, match=complaint) as caught:
        read_manifest(restamp(**changes))
    assert isinstance(caught.value, BundleError) or "taxonomy" in str(caught.value)


def test_every_flipped_byte_and_every_cut_is_noticed(bundle: Path) -> None:
    data = bundle.read_bytes()
    rng = np.random.default_rng(0)
    start = data.rindex(MANIFEST_KEY.encode())
    noticed = 0
    for at in (*rng.integers(16, len(data), 150), *rng.integers(start + 40, len(data), 50)):
        mutant = bytearray(data)
        mutant[int(at)] ^= 1 << int(rng.integers(8))
        try:
            parse_bundle(bytes(mutant), "mutant")
        except BundleError:
            noticed += 1
        else:
            # The few bytes outside graph and manifest (producer, opset) do not change what the
            # graph computes.
            assert (
                parse_bundle(bytes(mutant), "m").graph_sha256
                == parse_bundle(data, "d").graph_sha256
            )
    assert noticed >= 195
    for at in rng.integers(0, len(data), 40):
        with pytest.raises(BundleError):
            parse_bundle(data[: int(at)], "cut")


def test_a_second_graph_in_the_file_is_refused(bundle: Path) -> None:
    data = bundle.read_bytes()
    graph = next(value for number, value in onnx_file._fields(data) if number == 7)
    key = onnx_file._key
    varint = onnx_file._varint
    with pytest.raises(BundleError, match="two graphs"):
        parse_bundle(data + key(7, 2) + varint(len(graph)) + graph, "double")


def test_onnx_without_a_manifest_and_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04" + bytes(100), b"\x3a\x02\x0a\x00", bytes(1000)):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"x\.onnx"):
            read_manifest(path)
    with pytest.raises(BundleError, match="Name a bundle"):
        read_manifest(tmp_path / "none.onnx")


def test_probe_frame_never_changes() -> None:
    frame = probe_frame()
    assert (frame.shape, frame.dtype) == ((240, 320, 3), np.uint8)
    assert (int(frame.sum()), frame[7, 11].tolist(), frame[200, 300].tolist()) == PROBE


PROBE = (29479859, [186, 209, 136], [198, 130, 66])
