"""Days of `make bench ARGS=offline`, which plays thirty."""

from pathlib import Path

from benchmarks.bench_offline import ITEMS_A_DAY, offline


def test_days_without_a_hub_arrive_once_and_dated_whatever_the_clock_did(tmp_path: Path) -> None:
    done = offline(tmp_path, 64 * 2**20, days=4)
    assert (done["arrived"], done["double"], done["unaccounted"]) == (4 * ITEMS_A_DAY, 0, 0)
    assert done["worst_date_error_ms"] == 0


def test_an_outbox_too_small_for_the_days_drops_the_oldest_and_counts_every_one(
    tmp_path: Path,
) -> None:
    done = offline(tmp_path, 2**20, days=2)
    assert done["dropped_and_counted"] > 0
    assert (done["unaccounted"], done["double"]) == (0, 0)
    assert done["largest_mb"] < 1.6  # the bound, and the log beside it
