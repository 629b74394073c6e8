"""The classifier has every bundle prove itself."""

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.classify import Classifier
from edge_runtime.classify_files import classify_paths
from vision.bundle import probe_frame, read_manifest
from vision.errors import BundleError


def test_shipped_bundle_reproduces_its_expected_output_on_this_machine(bundle: Path) -> None:
    result = Classifier(bundle).classify(probe_frame())
    probe = read_manifest(bundle).probe
    assert result.prediction.label == read_manifest(bundle).labels[int(np.argmax(probe.logits))]
    assert sum(result.prediction.probabilities.values()) == pytest.approx(1)


def test_a_missed_expected_output_is_refused(restamp: Callable[..., Path], bundle: Path) -> None:
    probe = asdict(read_manifest(bundle).probe)
    for change in (
        {"logits": [v + 1.5 for v in probe["logits"]]},
        {"embedding": [*reversed(probe["embedding"])]},
    ):
        with pytest.raises(BundleError, match="expected output is missed"):
            Classifier(restamp(probe={**probe, **change}))


def test_a_manifest_that_names_other_tensors_is_refused(restamp: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="does not run"):
        Classifier(
            restamp(tensors={"input": "nothing", "logits": "logits", "embedding": "embedding"})
        )


def test_statistics_of_another_embedding_are_refused(
    restamp: Callable[..., Path], bundle: Path
) -> None:
    small = base64.b64encode(np.ones((6, 8), "<f2").tobytes()).decode()
    changes = {"embedding": {"size": 8, "centroids_f16_base64": small}}
    with pytest.raises(BundleError, match="the probe's embedding is empty or of another size"):
        Classifier(restamp(**changes))
    probe = {**asdict(read_manifest(bundle).probe), "embedding": [1.0] * 8}
    with pytest.raises(BundleError, match="embedding is not of the size"):
        Classifier(restamp(**changes, probe=probe))


def test_classify_gives_a_line_for_every_image_readable_or_not(
    bundle: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "good.jpg"), probe_frame())
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:900])
    (tmp_path / "empty").mkdir()
    rows = list(classify_paths([tmp_path / "none.png", tmp_path, tmp_path / "empty"], bundle))
    assert [Path(r["path"]).name for r in rows] == ["none.png", "cut.jpg", "good.jpg", "empty"]
    assert [set(r) == {"path", "error"} for r in rows] == [True, True, False, True]
    assert set(rows[2]) == {
        "path",
        "label",
        "confidence",
        "unknown_score",
        "decision",
        "probabilities",
    }
    json.dumps(rows, allow_nan=False)
