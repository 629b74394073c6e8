"""Turn logits into a prediction, and a prediction into a decision.

The functions are pure, and the bin and the fitting of thresholds share them. There is always a
decision: known, unsure, unknown, hazard or fault. Nothing here knows streams or lids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision.errors import BundleError
from vision.taxonomy import Taxonomy

FloatArray = NDArray[np.floating[Any]]


class DecisionKind(StrEnum):
    """What a decision is; there is no other."""

    KNOWN = "known"
    UNSURE = "unsure"
    UNKNOWN = "unknown"
    HAZARD = "hazard"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """Thresholds fitted in training; they travel in the bundle.

    Attributes:
        temperature: logits are divided by it before the softmax; > 0.
        min_confidence: per label, the calibrated confidence in 0..1 under which the item is
            `unsure`.
        max_unknown_score: unknown score above which the item is `unknown`.
        min_hazard: probability of all hazard labels together, 0..1, from which on the item is a
            `hazard`, whatever label is most probable. None, as in a bundle without hazard labels
            or of before this threshold: a hazard label that is most probable is a hazard.
    """

    temperature: float
    min_confidence: Mapping[str, float]
    max_unknown_score: float
    min_hazard: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise BundleError(
                f"policy.temperature is {self.temperature}; it must be a number above 0"
            )
        if self.min_hazard is not None and not 0 < self.min_hazard <= 1:
            raise BundleError(
                f"policy.min_hazard is {self.min_hazard}; it must be above 0, and at most 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a manifest stores."""
        document = {
            "temperature": self.temperature,
            "min_confidence": dict(self.min_confidence),
            "max_unknown_score": self.max_unknown_score,
        }
        return document if self.min_hazard is None else {**document, "min_hazard": self.min_hazard}


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingStats:
    """What the unknown test needs to know of the training images.

    Attributes:
        centroids_kd: float32, k x embedding, unit length: what the embeddings of the training
            images gather around, several to a label. Why this and not the logits or another
            distance: docs/decisions/0008.
    """

    centroids_kd: FloatArray

    def unknown_score(self, embedding_d: FloatArray) -> float:
        """Return 1 - cosine to the nearest centroid: 0 (typical) .. 2 (opposite).

        An embedding of length zero has no direction and scores 1.
        """
        length = math.sqrt(np.dot(embedding_d, embedding_d))
        if length == 0.0:
            return 1.0
        return 1.0 - float(np.dot(self.centroids_kd, embedding_d).max()) / length


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        label: most probable label.
        confidence: its calibrated probability, 0..1.
        second_label: runner-up; the same as `label` for a model of one label.
        margin: confidence minus the runner-up's, 0..1.
        unknown_score: see EmbeddingStats.unknown_score.
        probabilities: every label of the bundle, in logit order; they sum to 1.
    """

    label: str
    confidence: float
    second_label: str
    margin: float
    unknown_score: float
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the bin makes of a prediction.

    Attributes:
        kind: what it is.
        label: the label that holds; empty for unknown and fault.
        reason: one line for people and for the event.
    """

    kind: DecisionKind
    label: str
    reason: str


def softmax(logits_nk: FloatArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities over the last axis, float64, rows summing to 1."""
    scaled = np.asarray(logits_nk, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def to_prediction(
    logits_k: FloatArray,
    embedding_d: FloatArray,
    labels: tuple[str, ...],
    policy: DecisionPolicy,
    stats: EmbeddingStats,
) -> Prediction:
    """Turn one row of network output into a prediction.

    Args:
        logits_k: one value per label, in the order of `labels`.
        embedding_d: the network's embedding of the same image.
        labels: the bundle's labels.
        policy: the bundle's thresholds.
        stats: the same bundle's embedding statistics.
    """
    # A handful of numbers: plain floats take a third of the time that arrays do.
    scaled = [value / policy.temperature for value in logits_k.tolist()]
    greatest = max(scaled)
    powers = [math.exp(value - greatest) for value in scaled]
    total = sum(powers)
    return _ranked(
        {name: p / total for name, p in zip(labels, powers, strict=True)},
        stats.unknown_score(embedding_d),
    )


def _ranked(probabilities: Mapping[str, float], unknown_score: float) -> Prediction:
    """Return a prediction; of equally probable labels the first counts."""
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    first = ranked[0]
    second = ranked[min(1, len(ranked) - 1)]
    margin = probabilities[first] - probabilities[second] if first != second else 1.0
    return Prediction(first, probabilities[first], second, margin, unknown_score, probabilities)


def combine(predictions: Sequence[Prediction]) -> Prediction:
    """Average the predictions of several frames of one item: probabilities and unknown scores.

    Args:
        predictions: one or more, of the same labels.
    """
    if len(predictions) == 1:
        return predictions[0]
    count = len(predictions)
    probabilities = {
        name: sum(p.probabilities[name] for p in predictions) / count
        for name in predictions[0].probabilities
    }
    return _ranked(probabilities, sum(p.unknown_score for p in predictions) / count)


def likely_hazard(prediction: Prediction, policy: DecisionPolicy, taxonomy: Taxonomy) -> str:
    """Return the most probable hazard label if the policy alarms for it, else ""."""
    p = prediction
    if policy.min_hazard is None:
        return p.label if taxonomy.material(p.label).hazard else ""
    hazards = [label for label in p.probabilities if taxonomy.material(label).hazard]
    if sum(p.probabilities[label] for label in hazards) < policy.min_hazard:
        return ""
    return max(hazards, key=p.probabilities.__getitem__, default="")


def decide(prediction: Prediction, policy: DecisionPolicy, taxonomy: Taxonomy) -> Decision:
    """Decide on a prediction. Total: every prediction, NaN included, gives a decision.

    The order matters: broken numbers first, then hazards (a likely hazard never passes as
    `unsure`), then the unknown test, then confidence. An item whose most probable label is a
    hazard under the threshold is `unsure` at best: no lid opens as for a known item.
    """
    p = prediction
    if not (math.isfinite(p.confidence) and math.isfinite(p.unknown_score)):
        return Decision(DecisionKind.FAULT, "", "the network gave no finite number")
    if hazard := likely_hazard(p, policy, taxonomy):
        probability = p.probabilities.get(hazard, p.confidence)
        return Decision(DecisionKind.HAZARD, hazard, f"{hazard} at {probability:.2f}")
    if p.unknown_score > policy.max_unknown_score:
        return Decision(
            DecisionKind.UNKNOWN,
            "",
            f"unknown score {p.unknown_score:.3f} above {policy.max_unknown_score:.3f}",
        )
    needed = policy.min_confidence.get(p.label, 1.0)
    if taxonomy.material(p.label).hazard:
        return Decision(
            DecisionKind.UNSURE, p.label, f"{p.label} at {p.confidence:.2f}, under the alarm's"
        )
    if p.confidence < needed:
        return Decision(
            DecisionKind.UNSURE, p.label, f"{p.label} at {p.confidence:.2f}, {needed:.2f} needed"
        )
    return Decision(DecisionKind.KNOWN, p.label, f"{p.label} at {p.confidence:.2f}")
