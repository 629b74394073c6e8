"""Fit what turns logits into decisions: temperature, thresholds, embedding statistics.

Pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.decision import DecisionPolicy, EmbeddingStats, softmax
from vision.metrics import calibration_error
from vision.taxonomy import MATERIALS_1

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

TARGET_PRECISION = 0.95
# Share of known items that the unknown test may turn away.
KNOWN_TURNED_AWAY = 0.02
# Share of harmless items that the alarm may sound for.
HAZARD_FALSE_ALARMS = 0.01
# A label is no single thing: bottles, jars and shards of glass lie apart (docs/decisions/0008).
CENTROIDS_PER_LABEL = 8
# A threshold fitted on fewer images than this says more about luck than about the label.
MIN_IMAGES = 10


def fit_temperature(logits_nk: Floats, targets_n: Ints) -> float:
    """Return the temperature in 0.05..20 with the least negative log-likelihood.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    candidates = np.exp(np.linspace(np.log(0.05), np.log(20), 400))
    rows = np.arange(len(targets_n))
    losses = [-np.log(softmax(logits_nk, t)[rows, targets_n] + 1e-12).mean() for t in candidates]
    return float(candidates[int(np.argmin(losses))])


def fit_policy(
    logits_nk: Floats,
    targets_n: Ints,
    unknown_scores_n: Floats,
    labels: tuple[str, ...],
    least_temperature: float = 0.0,
) -> DecisionPolicy:
    """Fit the decision policy on held-out images.

    For each label, the lowest confidence at which TARGET_PRECISION of the images called so are
    right; where no threshold reaches it, or there are under MIN_IMAGES, the label needs
    TARGET_PRECISION itself as confidence. The alarm's threshold: see `hazard_threshold`.

    Args:
        logits_nk: of the images.
        targets_n: numbers of their labels.
        unknown_scores_n: see EmbeddingStats.unknown_score.
        labels: of the logits.
        least_temperature: a handful of images that are all right would have the network sure of
            everything.
    """
    temperature = max(least_temperature, fit_temperature(logits_nk, targets_n))
    probabilities = softmax(logits_nk, temperature)
    predicted = probabilities.argmax(1)
    confidence = probabilities.max(1)
    minimum = {}
    for index, label in enumerate(labels):
        called = predicted == index
        minimum[label] = _lowest_confidence(confidence[called], targets_n[called] == index)
    highest = float(np.quantile(unknown_scores_n, 1 - KNOWN_TURNED_AWAY))
    hazard_k = _hazards(labels)
    return DecisionPolicy(
        round(temperature, 5),
        minimum,
        round(highest, 5),
        hazard_threshold(probabilities[:, hazard_k].sum(1), hazard_k[targets_n])
        if hazard_k.any()
        else None,
    )


def hazard_threshold(hazard_n: Floats, is_hazard_n: NDArray[np.bool_]) -> float:
    """Return the probability of a hazard from which on a bin gives the alarm.

    It lies between the harmless images that may sound it, HAZARD_FALSE_ALARMS of them at most, and
    the least probable hazard beyond them, in the middle: no other threshold recognises more hazards
    at that rate. Without a harmless image it is 0.5.

    Args:
        hazard_n: probability of all hazard labels together, 0..1, of each image.
        is_hazard_n: whether the image shows one.
    """
    harmless = np.sort(hazard_n[~is_hazard_n])[::-1]
    if not len(harmless):
        return 0.5
    quiet = float(harmless[int(HAZARD_FALSE_ALARMS * len(harmless))])
    beyond = hazard_n[is_hazard_n & (hazard_n > quiet)]
    middle = (quiet + float(beyond.min(initial=1.0))) / 2
    return min(1.0, math.ceil(1e5 * middle) / 1e5)


def cross_fitted_figures(
    logits_nk: Floats,
    targets_n: Ints,
    unknown_scores_n: Floats,
    groups: Sequence[str],
    labels: tuple[str, ...],
    folds: int = 5,
) -> dict[str, float | None]:
    """Return calibration error and what the thresholds do, each image under a policy of others.

    No image is used to fit its own policy: that of a fold is fitted on the other folds, and a group
    is never on both sides.

    Returns:
        calibration_error, decided_share, decided_accuracy (None if nothing is decided); with hazard
        labels hazard_recall and hazard_false_alarms, shares of the images with and without one; all
        None for a single group.
    """
    hazard_k = _hazards(labels)
    names = ["calibration_error", "decided_share", "decided_accuracy"]
    names += ["hazard_recall", "hazard_false_alarms"] if hazard_k.any() else []
    _, group_n = np.unique(np.asarray(groups), return_inverse=True)
    if len(set(groups)) < 2:
        return dict.fromkeys(names)
    fold_n = np.random.default_rng(0).permutation(int(group_n.max()) + 1)[group_n] % folds
    predicted = logits_nk.argmax(1)
    confidence = np.zeros(len(targets_n))
    decided = np.zeros(len(targets_n), dtype=bool)
    alarm = np.zeros(len(targets_n), dtype=bool)
    for fold in range(folds):
        held = fold_n == fold
        if not held.any() or held.all():
            continue
        policy = fit_policy(logits_nk[~held], targets_n[~held], unknown_scores_n[~held], labels)
        probabilities = softmax(logits_nk[held], policy.temperature)
        confidence[held] = probabilities.max(1)
        needed = np.array([policy.min_confidence[label] for label in labels])[predicted[held]]
        clear = (confidence[held] >= needed) & (unknown_scores_n[held] <= policy.max_unknown_score)
        # As `decide` does: the alarm comes first, and a hazard without it is unsure.
        if policy.min_hazard is not None:
            alarm[held] = probabilities[:, hazard_k].sum(1) >= policy.min_hazard
        decided[held] = alarm[held] | (clear & ~hazard_k[predicted[held]])
    correct = np.where(alarm, hazard_k[targets_n], predicted == targets_n)
    is_hazard = hazard_k[targets_n]
    figures = [
        calibration_error(confidence, predicted == targets_n),
        float(decided.mean()),
        float(correct[decided].mean()) if decided.any() else None,
        *(float(alarm[some].mean()) if some.any() else None for some in (is_hazard, ~is_hazard)),
    ]
    return dict(zip(names, figures, strict=False))


def centroids(embeddings_nd: Floats, targets_n: Ints) -> EmbeddingStats:
    """Return the k-means centroids of each label's unit-length embeddings.

    Args:
        embeddings_nd: of training images.
        targets_n: their labels' numbers, from 0; every one must occur.
    """
    directions = embeddings_nd / np.maximum(
        np.linalg.norm(embeddings_nd, axis=1, keepdims=True), 1e-12
    )
    centres = []
    for label in range(int(targets_n.max()) + 1):
        own = np.ascontiguousarray(directions[targets_n == label], dtype=np.float32)
        count = max(1, min(CENTROIDS_PER_LABEL, len(own) // 2))
        if count == 1:  # and OpenCV takes a single row for so many points of one number
            centres.append(own.mean(0, keepdims=True))
            continue
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-5)
        cv2.setRNGSeed(0)
        _, _, some = cv2.kmeans(
            own, count, np.empty((0, 1), np.int32), stop, 3, cv2.KMEANS_PP_CENTERS
        )
        centres.append(some)
    means = np.concatenate(centres)
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    # Rounded as the manifest stores them, so that figures are of the very numbers that the bin will
    # use.
    return EmbeddingStats(unit.astype(np.float16).astype(np.float32))


def _hazards(labels: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([MATERIALS_1.material(label).hazard for label in labels])


def _lowest_confidence(confidence_n: Floats, correct_n: NDArray[np.bool_]) -> float:
    if len(confidence_n) < MIN_IMAGES:
        return TARGET_PRECISION
    order = np.argsort(-confidence_n, kind="stable")
    precision = np.cumsum(correct_n[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(precision >= TARGET_PRECISION)
    # Rounded down: the image itself must pass.
    return (
        math.floor(1e5 * float(confidence_n[order][good[-1]])) / 1e5
        if len(good)
        else TARGET_PRECISION
    )
