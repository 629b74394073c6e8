"""Logits to prediction to decision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vision.decision import (
    DecisionKind,
    DecisionPolicy,
    EmbeddingStats,
    decide,
    softmax,
    to_prediction,
)
from vision.errors import BundleError
from vision.taxonomy import MATERIALS_1

LABELS = ("glass", "paper", "hazardous")
POLICY = DecisionPolicy(1.0, {"glass": 0.8, "paper": 0.5}, 0.4)
STATS = EmbeddingStats(np.eye(3, dtype=np.float32))
any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)


def _decide(logits: list[float], embedding: list[float]) -> str:
    with np.errstate(all="ignore"):
        p = to_prediction(
            np.array(logits, np.float32), np.array(embedding, np.float32), LABELS, POLICY, STATS
        )
        return decide(p, POLICY, MATERIALS_1).kind


@given(arrays(np.float32, 3, elements=any_float), arrays(np.float32, 3, elements=any_float))
def test_every_output_of_a_network_gives_a_decision(
    logits: np.ndarray, embedding: np.ndarray
) -> None:
    assert _decide(logits.tolist(), embedding.tolist()) in DecisionKind


@pytest.mark.parametrize(
    ("logits", "embedding", "kind"),
    [
        ([9, 0, 0], [1, 0, 0], "known"),
        ([1, 0, 0], [1, 0, 0], "unsure"),
        ([9, 0, 0], [-1, 0, 0], "unknown"),
        ([0, 0, 1], [0, 0, -1], "hazard"),  # a likely hazard never passes as unsure
        ([np.nan, 0, 0], [1, 0, 0], "fault"),
    ],
)
def test_decisions(logits: list[float], embedding: list[float], kind: str) -> None:
    assert _decide(logits, embedding) == kind


@pytest.mark.parametrize(
    ("min_hazard", "probability", "decision"),
    [
        (None, 0.34, ("hazard", "hazardous")),  # most probable, at any confidence
        (0.2, 0.21, ("hazard", "hazardous")),  # least probable, and still the alarm
        (0.2, 0.19, ("unsure", "glass")),
        (0.9, 0.89, ("unsure", "hazardous")),  # never served as a known item
    ],
)
def test_the_alarm_has_a_threshold_of_its_own(
    min_hazard: float | None, probability: float, decision: tuple[str, str]
) -> None:
    rest = (1 - probability) / 2
    logits = np.log(np.array([rest + 1e-3, rest - 1e-3, probability], np.float32))
    policy = DecisionPolicy(1.0, {"glass": 0.8, "hazardous": 0.5}, 2.0, min_hazard)
    p = to_prediction(logits, np.array([1, 0, 0], np.float32), LABELS, policy, STATS)
    made = decide(p, policy, MATERIALS_1)
    assert (made.kind, made.label) == decision
    assert DecisionPolicy(**policy.to_dict()) == policy


@pytest.mark.parametrize("min_hazard", [0, -0.1, 1.1, float("nan")])
def test_an_alarm_that_always_or_never_sounds_is_refused(min_hazard: float) -> None:
    with pytest.raises(BundleError, match="min_hazard"):
        DecisionPolicy(1.0, {}, 1, min_hazard)


@given(arrays(np.float32, (4, 5), elements=st.floats(-50, 50, width=32)), st.floats(0.1, 10))
def test_probabilities_sum_to_one_and_keep_the_order(
    logits: np.ndarray, temperature: float
) -> None:
    p = softmax(logits, temperature)
    assert np.allclose(p.sum(axis=1), 1)
    assert (np.take_along_axis(p, logits.argmax(1)[:, None], 1)[:, 0] >= p.max(1) - 1e-12).all()


def test_unknown_score_is_small_at_a_centroid_and_large_away_from_all() -> None:
    assert STATS.unknown_score(np.array([5, 0, 0], np.float32)) == pytest.approx(0)
    assert STATS.unknown_score(np.array([-1, -1, -1], np.float32)) > 1
    assert STATS.unknown_score(np.zeros(3, np.float32)) == 1


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_policy_without_a_usable_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(BundleError, match="temperature"):
        DecisionPolicy(temperature, {}, 1)
