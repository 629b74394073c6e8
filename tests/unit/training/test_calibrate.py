"""Temperature and thresholds.

Fitted on what training has not seen, and what is undefined is said to be.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from training.calibrate import (
    HAZARD_FALSE_ALARMS,
    cross_fitted_figures,
    fit_policy,
    hazard_threshold,
)
from training.evaluate import Outputs, score
from training.stamp import held_out
from vision.bundle import read_manifest
from vision.datasets import Dataset, Sample, open_dataset
from vision.decision import DecisionPolicy, softmax

LABELS = ("glass", "paper")


def test_a_threshold_lets_the_image_pass_that_it_was_fitted_on() -> None:
    logits = np.tile(np.array([[0.2834, 0.0]]), (20, 1))
    policy = fit_policy(logits, np.zeros(20, int), np.zeros(20), LABELS)
    confidence = softmax(logits, policy.temperature)[:, 0]
    assert (confidence >= policy.min_confidence["glass"]).all()


def test_the_alarm_is_fitted_for_recall_at_a_stated_rate_of_false_alarms() -> None:
    rng = np.random.default_rng(0)
    harmless = rng.beta(1, 8, 1000)
    hazards = rng.beta(3, 3, 60)
    probability = np.concatenate([harmless, hazards])
    is_hazard = np.arange(1060) >= 1000
    threshold = hazard_threshold(probability, is_hazard)
    alarm = probability >= threshold
    assert alarm[~is_hazard].mean() <= HAZARD_FALSE_ALARMS
    # No other threshold at that rate recognises more.
    best = max(
        (probability[is_hazard] >= t).mean()
        for t in probability
        if (harmless >= t).mean() <= HAZARD_FALSE_ALARMS
    )
    assert alarm[is_hazard].mean() == best


def test_between_what_is_apart_the_alarm_has_room_on_both_sides() -> None:
    apart = np.array([0.01, 0.02, 0.9, 0.95])
    assert hazard_threshold(apart, apart > 0.5) == pytest.approx(0.46)
    assert hazard_threshold(apart, apart < 0) == pytest.approx(0.975)  # no hazard was seen
    assert hazard_threshold(apart, apart > 0) == 0.5


def test_figures_of_the_alarm_are_of_images_that_it_was_not_fitted_on() -> None:
    logits = np.tile(np.array([[0.0, 9.0], [9.0, 0.0]]), (100, 1))
    labels = ("glass", "hazardous")
    hazardous = np.arange(200) % 2 == 0
    hazardous[[1, 3]] = True  # two hazards that look like glass
    figures = cross_fitted_figures(
        logits, hazardous.astype(int), np.zeros(200), [str(i) for i in range(200)], labels
    )
    assert figures["hazard_recall"] == pytest.approx(100 / 102)
    assert figures["hazard_false_alarms"] == 0


def test_an_evaluation_says_what_the_alarm_recognised(
    bundles: tuple[Path, Path], images: Path
) -> None:
    policy = DecisionPolicy(1.0, {}, 2.0, 0.2)
    labels = ("cardboard", "organic", "hazardous")
    manifest = replace(read_manifest(bundles[0]), labels=labels, policy=policy)
    path = open_dataset(images).samples[0].path
    truth = ("hazardous",) * 4 + ("organic",) * 4
    samples = tuple(Sample(path, str(i), t, "val", str(i)) for i, t in enumerate(truth))
    hazard_n = np.array([0.3, 0.25, 0.1, 0.9, 0.1, 0.1, 0.25, 0.1])
    rest_n = (1 - hazard_n) / 2
    logits = np.log(np.stack([rest_n, rest_n, hazard_n], 1)).astype(np.float32)
    embeddings = np.ones((8, manifest.stats.centroids_kd.shape[1]), np.float32)
    outputs = Outputs(logits, embeddings, np.ones(8), np.ones(8))
    _, figures, _ = score(manifest, Dataset("s", samples), outputs)
    assert figures["hazard"] == {"recall": 0.75, "false_alarms": 0.25}


def test_figures_of_a_single_group_are_undefined() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 2))
    targets = np.arange(30) % 2
    one = cross_fitted_figures(logits, targets, np.zeros(30), ["same"] * 30, LABELS)
    assert set(one.values()) == {None}
    two = cross_fitted_figures(logits, targets, np.zeros(30), ["a", "b"] * 15, LABELS)
    assert None not in (two["calibration_error"], two["decided_share"])


@pytest.mark.parametrize(("fresh", "taken"), [(30, 30), (5, 45)], ids=["enough", "too few"])
def test_confidence_is_fitted_on_objects_that_training_did_not_show(fresh: int, taken: int) -> None:
    sample = Sample(Path(), "", "glass", "train", "seen")
    train = Dataset("t", (sample, replace(sample, label="paper", group="other")))
    val = [replace(sample, group=f"new{i}", label=LABELS[i % 2]) for i in range(fresh)]
    chosen = held_out(train, Dataset("v", (*val, *[sample] * 40)))
    assert chosen.sum() == taken
    assert chosen[:fresh].all()
