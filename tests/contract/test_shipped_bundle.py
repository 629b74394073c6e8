"""The bundle that ships is what its manifest and the documentation say it is."""

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from training.evaluate import evaluate, with_foreign
from training.quantize import MAX_ACCURACY_LOSS, MAX_LABEL_LOSS
from vision.bundle import read_manifest
from vision.datasets import UNKNOWN, open_dataset


def test_it_is_small_openly_licensed_and_passed_the_gate(shipped: Path) -> None:
    manifest = read_manifest(shipped)
    assert shipped.stat().st_size <= 3_500_000
    assert manifest.precision == "int8"
    assert manifest.data_licences["trashnet"] == "MIT"
    assert any("CC-BY-4.0" in licence for licence in manifest.data_licences.values())  # of things of no label
    assert not any("NC" in licence or licence == "unknown" for licence in manifest.data_licences.values())
    loss = manifest.metrics["int8_against_float"]
    assert max(loss["lost"], loss["lost_upright"]) <= MAX_ACCURACY_LOSS
    assert max(loss["lost_on"].values()) <= MAX_LABEL_LOSS
    assert {"train_sha256", "val_sha256", "foreign_sha256", "checkpoint_sha256", "float_bundle_sha256"} <= set(
        manifest.lineage
    )


def test_it_does_on_photographs_what_its_manifest_says(shipped: Path, shared: Path) -> None:
    manifest = read_manifest(shipped)
    whole = open_dataset(shared / "data/trashnet")
    val = whole.select("val")
    assert manifest.lineage["val_sha256"] == val.digest()
    trained = {s.group for s in whole.samples if s.split == "train"}
    foreign = open_dataset(shared / "data/extra_open", unmapped=UNKNOWN)
    figures = evaluate(shipped, with_foreign(val, foreign, shipped), trained_groups=trained).figures
    # Another processor may round a picture or two the other way.
    assert figures["accuracy"] == pytest.approx(manifest.metrics["val"]["accuracy"], abs=0.01)
    assert figures["accuracy"] > 0.9
    assert figures["without_near_duplicates"]["accuracy"] < figures["accuracy"]
    assert figures["unknown"]["auroc"] > 0.95


def test_it_carries_to_another_place_better_than_frozen_features(shipped: Path, shared: Path) -> None:
    names = {name: name for name in ("cardboard", "glass", "metal", "paper", "plastic")}
    place = open_dataset(shared / "data/realwaste_nc", names)
    every_fourth = place.__class__(place.name, place.samples[::4], place.licence)
    assert evaluate(shipped, every_fourth).figures["accuracy"] > 0.42
