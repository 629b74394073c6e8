"""The bundle that ships is what its manifest and the documentation say it is."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper

from configs import load
from edge_runtime import replay
from edge_runtime.config import FLOAT_BUNDLE, EdgeConfig
from training.cards import write_cards
from training.data import Images
from training.evaluate import evaluate, open_session, run_graph, with_outliers
from training.gate import MAX_ACCURACY_LOSS, MAX_LABEL_LOSS, part
from vision.bundle import bundle_digest, read_bundle, read_manifest
from vision.datasets import UNKNOWN, merge, open_dataset


def test_it_is_small_openly_licensed_and_passed_the_gate(shipped: Path) -> None:
    manifest = read_manifest(shipped)
    assert shipped.stat().st_size <= 6_000_000
    assert manifest.precision == "int8"
    assert "trashnet: MIT" in manifest.data_licences["trashnet+open2"]
    # The images of things of no label.
    assert any("CC-BY-4.0" in licence for licence in manifest.data_licences.values())
    assert not any(
        "NC" in licence or licence == "unknown" for licence in manifest.data_licences.values()
    )
    loss = manifest.metrics["int8_against_float"]
    assert max(loss["lost"], loss["lost_upright"]) <= MAX_ACCURACY_LOSS
    assert max(loss["lost_on"].values()) <= MAX_LABEL_LOSS
    assert {
        "train_sha256",
        "val_sha256",
        "outliers_sha256",
        "checkpoint_sha256",
        "float_bundle_sha256",
    } <= set(manifest.lineage)


def test_the_cards_in_the_docs_are_made_from_its_manifest(shipped: Path, tmp_path: Path) -> None:
    for path in write_cards(shipped, tmp_path):
        written = Path(__file__).parents[2] / "docs" / path.name
        assert written.read_text() == path.read_text(), (
            "run: binsight card edge_runtime/bundles/int8.onnx --out docs"
        )


def test_its_float_form_is_its_parent_and_of_the_same_labels(shipped: Path) -> None:
    int8 = read_manifest(shipped)
    parent = read_manifest(FLOAT_BUNDLE)
    assert int8.lineage["float_bundle_sha256"] == bundle_digest(FLOAT_BUNDLE)
    assert (int8.labels, int8.preprocess, parent.precision) == (
        parent.labels,
        parent.preprocess,
        "fp32",
    )
    assert FLOAT_BUNDLE.stat().st_size <= 10_000_000


def test_no_processor_can_saturate_and_the_first_layer_takes_the_cameras_bytes(
    shipped: Path,
) -> None:
    graph = onnx.load(str(shipped)).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    quantised = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    greatest: dict[bool, int] = {True: 0, False: 0}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in quantised:
            depthwise = any(a.name == "group" and a.i > 1 for a in node.attribute)
            weight = arrays[quantised[node.input[1]].input[0]]
            greatest[depthwise] = max(greatest[depthwise], int(np.abs(weight.astype(int)).max()))
    assert 0 < greatest[False] <= 64
    assert 64 < greatest[True] <= 128  # their kernels do not saturate (decision 11)
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear")
    scale, zero_point = (arrays[name] for name in first.input[1:])
    assert (float(scale), int(zero_point)) == (pytest.approx(1 / 127.5, rel=1e-5), 128)


def test_here_it_says_what_the_exact_computation_says(shipped: Path, shared: Path) -> None:
    data, manifest = read_bundle(shipped)
    samples = open_dataset(shared / "data/trashnet").select("val").samples[::4]
    sessions = (open_session(data, 2), open_session(data, 2, exact=True))
    here, exact = (
        run_graph(s, manifest.tensors, manifest.preprocess, Images(samples)) for s in sessions
    )
    gap = part(here, exact)
    assert gap.other_labels <= 1, gap.message()
    assert gap.least_cosine >= 0.999, gap.message()


def test_it_does_on_photographs_what_its_manifest_says(shipped: Path, shared: Path) -> None:
    manifest = read_manifest(shipped)
    sets = [open_dataset(shared / "data" / name) for name in ("trashnet", "open2")]
    whole = merge(sets)
    val = whole.select("val")
    assert manifest.lineage["val_sha256"] == val.digest()
    trained = {s.group for s in whole.samples if s.split == "train"}
    outliers = open_dataset(shared / "data/extra_open", unmapped=UNKNOWN)
    figures = evaluate(
        shipped, with_outliers(val, outliers, shipped), trained_groups=trained
    ).figures
    # Another processor may round an image or two the other way.
    assert figures["accuracy"] == pytest.approx(manifest.metrics["val"]["accuracy"], abs=0.01)
    assert figures["accuracy"] > 0.9
    assert figures["without_near_duplicates"]["accuracy"] < figures["accuracy"]
    assert figures["unknown"]["auroc"] > 0.95


def test_it_carries_to_another_place_better_than_frozen_features(
    shipped: Path, shared: Path
) -> None:
    names = {name: name for name in ("cardboard", "glass", "metal", "paper", "plastic")}
    place = open_dataset(shared / "data/realwaste_nc", names)
    every_fourth = place.__class__(place.name, place.samples[::4], place.licence)
    assert evaluate(shipped, every_fourth).figures["accuracy"] > 0.42


def test_a_recording_gives_the_events_that_were_accepted(shipped: Path) -> None:
    recording = Path(__file__).parents[1] / "replay" / "six-items.avi"
    rows = replay.replay(recording, load(EdgeConfig, None, [f"bundle={shipped}"]))
    assert replay.differences(recording, rows) == []
    assert len(rows) == 6
