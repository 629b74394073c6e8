"""Temperature and thresholds.

Fitted on what training has not seen, and what is undefined is said to be.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from training.calibrate import cross_fitted_figures, fit_policy
from training.stamp import held_out
from vision.datasets import Dataset, Sample
from vision.decision import softmax

LABELS = ("glass", "paper")


def test_a_threshold_lets_the_image_pass_that_it_was_fitted_on() -> None:
    logits = np.tile(np.array([[0.2834, 0.0]]), (20, 1))
    policy = fit_policy(logits, np.zeros(20, int), np.zeros(20), LABELS)
    confidence = softmax(logits, policy.temperature)[:, 0]
    assert (confidence >= policy.min_confidence["glass"]).all()


def test_a_hazard_is_decided_however_doubtful_as_on_the_bin() -> None:
    logits = np.tile(np.array([[0.0, 0.01]]), (40, 1))
    labels = ("glass", "hazardous")
    figures = cross_fitted_figures(
        logits, np.arange(40) % 2, np.zeros(40), [str(i) for i in range(40)], labels
    )
    assert figures["decided_share"] == 1
    assert figures["decided_accuracy"] == 0.5


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
