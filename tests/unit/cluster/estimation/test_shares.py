"""The interval of a share is the field's, whichever way it is computed."""

import numpy as np
import pytest
from scipy.stats import binomtest

from cluster.estimation.shares import wilson


@pytest.mark.parametrize("total", [1, 7, 10, 1000, 1_000_000])
def test_intervals_are_those_of_scipys_binomial_test(total: int) -> None:
    count_n = np.unique(np.linspace(0, total, 9).astype(int))
    shares = wilson(count_n, total)
    for index, count in enumerate(count_n):
        expected = binomtest(int(count), total).proportion_ci(method="wilson")
        found = (shares.low_n[index], shares.high_n[index])
        assert np.allclose(found, (expected.low, expected.high), rtol=1e-12, atol=1e-12)


def test_of_nothing_counted_nothing_is_known() -> None:
    shares = wilson([0, 0], 0)
    assert shares.low_n.tolist() == [0.0, 0.0]
    assert shares.high_n.tolist() == [1.0, 1.0]
    assert wilson([], 0).share_n.tolist() == []
