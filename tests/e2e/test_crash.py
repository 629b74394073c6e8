"""A few of the kills of `make bench ARGS=crash`, which plays 500."""

from pathlib import Path

from benchmarks.bench_crash import crash


def test_kills_of_bin_and_hub_lose_nothing_that_was_appended_and_count_nothing_twice(
    tmp_path: Path,
) -> None:
    done = crash(tmp_path, 10, 2)
    assert (done["lost"], done["double"]) == (0, 0)
    assert done["events"] > 10
    assert 0 <= done["unrecorded"] <= done["kills"]
