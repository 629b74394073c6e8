"""Figures of merit of a classifier, in numpy.

Each takes arrays and returns values; nothing is printed or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


def confusion_matrix(truth_n: Ints, predicted_n: Ints, labels: int) -> NDArray[np.int64]:
    """Return counts, labels x labels: row = truth, column = prediction."""
    matrix = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(matrix, (truth_n, predicted_n), 1)
    return matrix


def accuracy(matrix_kk: Ints) -> float:
    """Return the share on the diagonal, 0..1; NaN for an empty matrix."""
    total = matrix_kk.sum()
    return float(np.trace(matrix_kk) / total) if total else float("nan")


def recall_per_label(matrix_kk: Ints) -> Floats:
    """Return the share of each true label that was found; NaN where the label does not occur."""
    rows = matrix_kk.sum(axis=1).astype(np.float64)
    shares: Floats = np.divide(
        np.diag(matrix_kk), rows, out=np.full(len(rows), np.nan), where=rows > 0
    )
    return shares


def precision_per_label(matrix_kk: Ints) -> Floats:
    """Return the share of each predicted label that was right; NaN where it is never predicted."""
    return recall_per_label(matrix_kk.T)


def macro_f1(matrix_kk: Ints) -> float:
    """Return the mean over occurring labels of the harmonic mean of precision and recall."""
    occurs = matrix_kk.sum(axis=1) > 0
    both = matrix_kk.sum(axis=1) + matrix_kk.sum(axis=0)
    f1 = np.divide(2.0 * np.diag(matrix_kk), both, out=np.zeros(len(both)), where=both > 0)
    return float(f1[occurs].mean()) if occurs.any() else float("nan")


def calibration_error(confidence_n: Floats, correct_n: NDArray[np.bool_], bins: int = 15) -> float:
    """Return the expected calibration error over equal-width bins, 0..1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    index = np.minimum((confidence_n * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    gap = np.abs(
        np.bincount(index, confidence_n, bins)
        - np.bincount(index, correct_n.astype(np.float64), bins)
    )
    return float(gap.sum() / counts.sum()) if counts.sum() else float("nan")


def risk_coverage(confidence_n: Floats, correct_n: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return (coverage, risk): the error share of the most confident part, for each size of it."""
    order = np.argsort(-confidence_n, kind="stable")
    taken = np.arange(1, len(order) + 1, dtype=np.float64)
    return taken / max(len(order), 1), np.cumsum(~correct_n[order]) / taken


def coverage_at(confidence_n: Floats, correct_n: NDArray[np.bool_], risk: float) -> float:
    """Return the largest share of the samples of which at most `risk` are wrong.

    The most confident samples are taken first.
    """
    coverage, risks = risk_coverage(confidence_n, correct_n)
    good = np.flatnonzero(risks <= risk)
    return float(coverage[good[-1]]) if len(good) else 0.0


def fpr_at_recall(score_n: Floats, positive_n: NDArray[np.bool_], recall: float = 0.95) -> float:
    """Return the false positive rate where `recall` of the positives are found.

    It is the share of negatives at or above the threshold that keeps `recall` of the positives; NaN
    if one side is empty.
    """
    if not positive_n.any() or positive_n.all():
        return float("nan")
    positives = np.sort(score_n[positive_n])
    kept = int(np.ceil(recall * len(positives) - 1e-9))
    return float((score_n[~positive_n] >= positives[len(positives) - kept]).mean())


def auroc(score_n: Floats, positive_n: NDArray[np.bool_]) -> float:
    """Return the chance that a positive scores above a negative, ties counting half.

    NaN if one side is empty.
    """
    positives = int(positive_n.sum())
    negatives = int((~positive_n).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(score_n, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2.0
    return float(
        (mean_rank[inverse][positive_n].sum() - positives * (positives + 1) / 2)
        / (positives * negatives)
    )


def group_bootstrap(
    groups: Sequence[str], statistic: Callable[[Ints], float], repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % percentile interval of a statistic, resampling whole groups.

    Images of the same object are not independent; resampling them one by one gives intervals that
    are too narrow.

    Args:
        groups: the group of each sample.
        statistic: takes sample indices (with repetition) and returns a number.
        repeats: number of resamples.
        seed: of the resampling.
    """
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(inverse == g) for g in range(inverse.max() + 1)]
    rng = np.random.default_rng(seed)
    values = [
        statistic(
            np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        )
        for _ in range(repeats)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
