"""The share of a count in a total, and its 95 % interval. The hub's only address of scipy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

CONFIDENCE = 0.95
METHOD = f"count; {100 * CONFIDENCE:.0f} % Wilson interval of the share"


class Shares(NamedTuple):
    """Shares of a total, float64, each in 0..1.

    Attributes:
        share_n: count / total.
        low_n: lower end of the interval.
        high_n: upper end of the interval.
    """

    share_n: NDArray[np.float64]
    low_n: NDArray[np.float64]
    high_n: NDArray[np.float64]


def wilson(count_n: ArrayLike, total: int) -> Shares:
    """Return the share of each count in a total, with its Wilson score interval.

    The interval speaks of chance alone: what the share could be if other people came by. Errors of
    the classifier are not in it. The same numbers as `scipy.stats.binomtest(k, n).proportion_ci(
    method="wilson")`, which takes a millisecond for each row, for it tests a hypothesis as well.

    Args:
        count_n: int, each in 0..total.
        total: of all that was counted. Of 0 nothing is known: a share of 0 in (0, 1).

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22,
    1927.
    """
    counts_n = np.asarray(count_n, np.float64)
    if not total:
        zeros_n = np.zeros_like(counts_n)
        return Shares(zeros_n, zeros_n, np.ones_like(counts_n))
    z = ndtri((1 + CONFIDENCE) / 2)
    share_n = counts_n / total
    spread = z * z / total
    centre_n = (share_n + spread / 2) / (1 + spread)
    half_n = z * np.sqrt(share_n * (1 - share_n) / total + spread / (4 * total)) / (1 + spread)
    low_n = np.maximum(0.0, centre_n - half_n)
    high_n = np.minimum(1.0, centre_n + half_n)
    return Shares(share_n, low_n, high_n)
