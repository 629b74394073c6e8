"""Training and bin run the same code and say the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edge_runtime.classify_files import classify_paths
from training.evaluate import evaluate
from vision.datasets import open_dataset

VAL_ACCURACY = 0.90


@pytest.mark.shared_data
def test_classify_and_evaluate_agree_on_every_val_image(shared: Path, shipped: Path) -> None:
    val = open_dataset(shared / "data" / "trashnet").select("val")
    result = evaluate(shipped, val)
    rows = list(classify_paths([s.path for s in val.samples], shipped))
    assert len(rows) == len(val.samples) == 328
    for row, prediction in zip(rows, result.predictions, strict=True):
        assert row["label"] == prediction.label
        assert row["probabilities"] == dict(prediction.probabilities)
        assert row["unknown_score"] == prediction.unknown_score
    assert result.figures["accuracy"] >= VAL_ACCURACY


@pytest.mark.shared_data
def test_evaluate_from_the_command_line_writes_what_it_prints(shared: Path, tmp_path: Path) -> None:
    arguments = [
        "evaluate",
        "--data",
        str(shared / "data" / "trashnet"),
        "--out",
        str(tmp_path),
        "--predictions",
        str(tmp_path / "p.jsonl"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "binsight", *arguments], capture_output=True, text=True, check=True
    )
    printed = json.loads(done.stdout)
    assert printed["images"] == 328
    assert json.loads((tmp_path / "evaluation.json").read_text())["accuracy"] == printed["accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert sum(row["truth"] == row["label"] for row in lines) / 328 == pytest.approx(
        printed["accuracy"]
    )
    assert "<figure>" in (tmp_path / "evaluation.html").read_text()


@pytest.mark.shared_data
def test_images_of_another_place_can_be_measured_through_a_label_map(
    shared: Path, tmp_path: Path
) -> None:
    labels = ("cardboard", "glass", "metal", "paper", "plastic")
    (tmp_path / "map.json").write_text(json.dumps({label: label for label in labels}))
    arguments = [
        "evaluate",
        "--data",
        str(shared / "data" / "realwaste_nc"),
        "--label-map",
        str(tmp_path / "map.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "binsight", *arguments], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    assert set(figures["left_out"]) == {
        "food_organics",
        "miscellaneous_trash",
        "textile_trash",
        "vegetation",
    }
    assert 0.2 < figures["accuracy"] < 0.9
