"""An event is dated by the best clock that there is, and the lake says by which."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.ingest.event_time import EARLIEST_UTC_MS, FUTURE_MS, date_batch
from vision.events import Batch, ItemEvent

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("event", "sent", "expected"),
    [
        ({"wall_utc_ms": NOW - 5}, (-1, ""), (NOW - 5, "bin")),
        ({"wall_utc_ms": NOW + FUTURE_MS}, (-1, ""), (NOW + FUTURE_MS, "bin")),
        ({"wall_utc_ms": NOW + FUTURE_MS + 1}, (-1, ""), (NOW, "arrival")),
        ({"wall_utc_ms": EARLIEST_UTC_MS - 1}, (-1, ""), (NOW, "arrival")),
        ({"clock_synced": False}, (9000, "boot"), (NOW - 4000, "hub")),
        ({"clock_synced": False}, (9000, "later"), (NOW - 9000, "latest")),
        ({"clock_synced": False}, (4000, "boot"), (NOW - 4000, "latest")),
        (
            {"clock_synced": False, "monotonic_ms": -(2**63) + 1},
            (9000, "boot"),
            (NOW - 9000, "latest"),
        ),
        ({"clock_synced": False}, (2**53 - 1, "boot"), (NOW, "arrival")),
    ],
)
def test_an_event_is_dated_by_the_best_clock_there_is(
    make_event: Callable[..., ItemEvent],
    event: dict[str, Any],
    sent: tuple[int, str],
    expected: tuple[int, str],
) -> None:
    made = make_event(**{"monotonic_ms": 5000, "boot_id": "boot", **event})
    dated = date_batch(Batch("o", "b", 0, ((1, made),), *sent), NOW)
    assert dated.event_times == (expected,)
