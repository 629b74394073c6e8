"""A bundle's cards hold its manifest's figures, labels, thresholds and counts."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from training.commands import app
from vision.bundle import bundle_digest, read_manifest


def test_the_cards_say_what_the_manifest_says(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["card", str(bundles[1]), "--out", str(tmp_path)])
    assert result.exit_code == 0
    manifest = read_manifest(bundles[1])
    model = (tmp_path / "model-card.md").read_text()
    assert f"{manifest.metrics['val']['accuracy']:.3f} (" in model
    assert "| network | resnet18 |" in model
    assert bundle_digest(bundles[1]) in model
    for label, confidence in manifest.policy.min_confidence.items():
        assert f"| {label} | {confidence:.3f} |" in model
    of_data = (tmp_path / "data-card.md").read_text()
    (counts,) = manifest.metrics["data"]["train"].values()
    assert counts == {"cardboard": 80, "e_waste": 80, "organic": 80}
    assert "| set | cardboard | e_waste | organic |" in of_data
    assert manifest.lineage["train_sha256"] in of_data
