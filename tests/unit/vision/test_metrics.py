"""Figures against hand-made cases and against definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision import metrics


def test_hand_made_confusion() -> None:
    m = metrics.confusion_matrix(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), 3)
    assert m.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert metrics.accuracy(m) == 0.8
    assert metrics.recall_per_label(m)[:2].tolist() == [2 / 3, 1]
    assert np.isnan(metrics.recall_per_label(m)[2])
    assert metrics.precision_per_label(m)[:2].tolist() == [1, 2 / 3]
    # The label that does not occur does not count in the mean.
    assert metrics.macro_f1(m) == pytest.approx(0.8)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_the_chance_that_a_positive_scores_higher(rows: list[tuple[int, bool]]) -> None:
    score = np.array([r[0] for r in rows], float)
    positive = np.array([r[1] for r in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    value = metrics.auroc(score, positive)
    assert np.isnan(value) if not pairs else value == pytest.approx(np.mean(pairs))


def test_calibration_error_of_a_calibrated_and_of_a_boastful_model() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    honest = rng.random(200_000) < confidence
    assert metrics.calibration_error(confidence, honest) < 0.01
    assert metrics.calibration_error(np.ones(100), np.arange(100) < 60) == pytest.approx(0.4)


def test_risk_coverage_ends_at_the_error_rate() -> None:
    coverage, risk = metrics.risk_coverage(
        np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False])
    )
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])


def test_group_bootstrap_is_wider_than_pretending_independence() -> None:
    rng = np.random.default_rng(0)
    # 40 objects, 25 images each, all right or all wrong.
    right = np.repeat(rng.random(40) < 0.8, 25)
    grouped = metrics.group_bootstrap(
        [str(i // 25) for i in range(1000)], lambda i: float(right[i].mean()), 300
    )
    single = metrics.group_bootstrap(
        [str(i) for i in range(1000)], lambda i: float(right[i].mean()), 300
    )
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])
    assert grouped[0] < right.mean() < grouped[1]


def test_coverage_at_a_risk_is_the_largest_part_that_keeps_it() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    # Risks of the growing parts: 0, 0, 1/3, 1/4, 1/5.
    correct = np.array([True, True, False, True, True])
    assert metrics.coverage_at(confidence, correct, 0.0) == pytest.approx(0.4)
    assert metrics.coverage_at(confidence, correct, 0.2) == pytest.approx(1.0)
    assert metrics.coverage_at(confidence, ~correct, 0.1) == 0.0


def test_false_positives_are_counted_where_the_recall_is_kept() -> None:
    score = np.concatenate([np.arange(1, 101) / 100, np.array([0.01, 0.05, 0.5, 0.99])])
    positive = np.arange(104) < 100
    # 95 of 100 positives score above 0.05.
    assert metrics.fpr_at_recall(score, positive, 0.95) == pytest.approx(0.5)
    assert metrics.fpr_at_recall(score, positive, 1.0) == 1.0
    assert np.isnan(metrics.fpr_at_recall(score[:100], positive[:100]))
