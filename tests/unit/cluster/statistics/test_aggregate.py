"""One kernel, a merge that only adds, figures that are counts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.ingest.event_time import date_batch
from cluster.lake.schema import EVENTS, ITEMS, OUTBOXES, events_table
from cluster.lake.store import COMPACT_EVERY_COMMITS, Lake
from cluster.statistics.aggregate import (
    CONFIDENCES,
    KEYS,
    LATENCIES,
    QUARTER_MS,
    SUMS,
    Statistics,
    aggregate_files,
)
from cluster.statistics.completeness import completeness
from cluster.statistics.query import counted_events, duplicates, labels_in_order, query
from cluster.statistics.refresh import MOST_PARTS
from vision.errors import ConfigError, StorageError
from vision.events import Batch, ItemEvent

Make = Callable[..., ItemEvent]
HOUR = 3_600_000


def _added_up(parts: list[Statistics]) -> tuple[Counter[Any], dict[str, tuple[int, int, int]]]:
    """Return what queries make of some parts: counts by key, and each outbox's three figures."""
    counts: Counter[Any] = Counter()
    outboxes: dict[str, tuple[int, int, int]] = {}
    for part in parts:
        for row in part.items.to_pylist():
            key = tuple(row[name] for name in KEYS)
            counts.update({(key, name): row[name] for name in SUMS if row[name]})
        for row in part.outboxes.to_pylist():
            events, last, dropped = outboxes.get(row["outbox_id"], (0, 0, 0))
            outboxes[row["outbox_id"]] = (
                events + row["events"],
                max(last, row["max_seq"]),
                max(dropped, row["dropped"]),
            )
    return counts, outboxes


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["b1", "b2"]),
            st.sampled_from(["glass", "paper"]),
            st.floats(0, 1),
            st.integers(0, 3),
        ),
        min_size=3,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_do_not_depend_on_how_events_are_parted_or_ordered(
    tmp_path: Path, make_event: Make, rows: list[tuple[str, str, float, int]], random: object
) -> None:
    files = []
    for i, (bin_id, label, confidence, hour) in enumerate(rows):
        event = make_event(label=label, confidence=confidence, wall_utc_ms=hour * HOUR)
        path = tmp_path / f"{i}.parquet"
        batch = Batch(f"o-{bin_id}", bin_id, 0, ((i + 1, event),))
        pq.write_table(events_table([date_batch(batch, 5 * HOUR)], 5 * HOUR), path)
        files.append(str(path))
    whole = aggregate_files(files)
    cut = len(files) // 2
    parts = [aggregate_files(files[cut:]), aggregate_files(files[:cut])]
    assert _added_up(parts) == _added_up(parts[::-1]) == _added_up([whole])
    again = aggregate_files(files[::-1])
    assert (again.items, again.outboxes) == (whole.items, whole.outboxes)
    counted = whole.items.to_pylist()
    assert sum(row["items"] for row in counted) == len(rows)
    for histogram in (CONFIDENCES, LATENCIES):
        assert all(sum(row[name] for name in histogram) == row["items"] for row in counted)


def test_a_row_is_of_a_quarter_of_an_hour_and_its_sums_are_whole(
    tmp_path: Path, make_event: Make
) -> None:
    times = (0, QUARTER_MS - 1, QUARTER_MS, 4 * QUARTER_MS)
    figures = ((0.4, 0.25), (1.0, 0.5), (1.9, 0.25), (40_000.0, 1000.0004))
    start = 1_790_000_100_000 // HOUR * HOUR
    events = tuple(
        (n, make_event(wall_utc_ms=start + t, total_ms=ms, energy_mj=mj))
        for n, (t, (ms, mj)) in enumerate(zip(times, figures, strict=True), 1)
    )
    batch = date_batch(Batch("o", "b", 0, events), start + 5 * HOUR)
    path = tmp_path / "e.parquet"
    pq.write_table(events_table([batch], start + 5 * HOUR), path)
    rows = aggregate_files([str(path)]).items.to_pylist()
    assert [
        (
            (r["quarter_utc_ms"] - start) // QUARTER_MS,
            r["items"],
            r["energy_uj"],
            [k for k, name in enumerate(LATENCIES) for _ in range(r[name])],
        )
        for r in rows
    ] == [(0, 2, 750, [0, 1]), (1, 1, 250, [1]), (4, 1, 1_000_000, [15])]


@pytest.fixture
def lake(tmp_path: Path, make_event: Make) -> Lake:
    lake = Lake(tmp_path / "lake")
    glass = tuple((n, make_event(confidence=0.95)) for n in range(1, 8))
    doubt = (
        (8, make_event(decision="unsure", stream="residual", confidence=1.0)),
        (11, make_event(clock_synced=False, wall_utc_ms=0)),
    )
    paper = make_event(label="paper", stream="paper")
    batches = (
        (Batch("o1", "bin-1", 2, (*glass, *doubt)), 1_790_000_000_000),
        (Batch("o2", "bin-2", 0, ((1, paper),)), 1_790_000_000_000 + 24 * HOUR),
    )
    for number, (batch, received_utc_ms) in enumerate(batches, 1):
        rows = events_table([date_batch(batch, received_utc_ms)], received_utc_ms)
        lake.append(rows, "log", number)
    return lake


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_statistics_hold_every_event_once_and_count_what_is_missing(
    lake: Lake, tmp_path: Path, engine: str
) -> None:
    done = aggregate(HubConfig(lake=tmp_path / "lake"), engine)
    assert (done.events, done.parts, done.computed, done.engine) == (10, 2, 2, engine)
    assert {r["stream"]: r["items"] for r in query(lake, ["stream"]).to_pylist()} == {
        "glass": 8,
        "paper": 1,
        "residual": 1,
    }
    assert [(r.bin_id, r.events, r.max_seq, r.missing, r.dropped) for r in completeness(lake)] == [
        ("bin-1", 9, 11, 2, 2),
        ("bin-2", 1, 1, 0, 0),
    ]
    hours = {r["hour_utc_ms"] for r in query(lake, ["hour_utc_ms"]).to_pylist()}
    days = query(lake, ["day_utc_ms"]).to_pylist()
    assert sum(r["items"] for r in days) == 10
    assert all(r["day_utc_ms"] % (24 * HOUR) == 0 for r in days)
    assert all(hour % HOUR == 0 for hour in hours)
    assert 0 not in hours  # an event of a bin without a clock is dated by its arrival
    assert counted_events(lake) == lake.event_count() == 10
    assert duplicates(lake) == 0
    assert labels_in_order(lake)["bin-2"] == ["paper"]


@pytest.mark.parametrize("energy_mj", [1e300, -1e300, 9e15])
def test_a_figure_that_no_item_can_have_does_not_stop_the_counting(
    lake: Lake, tmp_path: Path, make_event: Make, energy_mj: float
) -> None:
    odd = tuple((n, make_event(energy_mj=energy_mj)) for n in range(12, 15))
    batch = date_batch(Batch("o1", "bin-1", 2, odd), 1_790_000_000_000)
    lake.append(events_table([batch], 1_790_000_000_000), "log", 3)
    assert aggregate(HubConfig(lake=tmp_path / "lake"), "local").events == 13


def test_aggregating_again_replaces_and_does_not_add(lake: Lake, tmp_path: Path) -> None:
    for _ in range(3):
        aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    assert sum(query(lake, ["label"]).column("items").to_pylist()) == 10


def _published(lake: Lake) -> list[object]:
    """Return what all questions are answered from: sums over the parts."""
    table = DeltaTable(str(lake.folder / ITEMS)).to_pyarrow_table()
    sums = table.group_by(["arrival_date", *KEYS]).aggregate([(name, "sum") for name in SUMS])
    order = [(name, "ascending") for name in ("arrival_date", *KEYS)]
    return [sums.sort_by(order).to_pylist(), completeness(lake)]


def test_only_new_files_are_counted_and_the_sums_equal_a_rebuild(
    lake: Lake, tmp_path: Path, make_event: Make
) -> None:
    config = HubConfig(lake=tmp_path / "lake")
    aggregate(config, "local")
    before = lake.files(ITEMS)
    again = aggregate(config, "ray")  # nothing is new: no Ray is started
    assert (again.computed, again.engine) == (0, "none")
    late = Batch("o2", "bin-2", 5, ((2, make_event(label="metal", stream="metal")),))
    received_utc_ms = 1_790_000_000_000 + 25 * HOUR
    lake.append(events_table([date_batch(late, received_utc_ms)], received_utc_ms), "log", 3)
    new = aggregate(config, "local")
    assert (new.events, new.parts, new.computed) == (11, 2, 1)
    assert set(before) < set(lake.files(ITEMS))  # what was counted before is as it was
    rows = [(r.outbox_id, r.events, r.max_seq, r.missing, r.dropped) for r in completeness(lake)]
    assert rows == [("o1", 9, 11, 2, 2), ("o2", 2, 2, 0, 5)]
    incremental = _published(lake)
    rebuilt = aggregate(config, "local", rebuild=True)
    assert rebuilt.computed == 2
    assert _published(lake) == incremental


def test_parts_stay_few_and_right_through_compactions_and_many_refreshes(
    lake: Lake, tmp_path: Path, make_event: Make
) -> None:
    config = HubConfig(lake=tmp_path / "lake")
    received_utc_ms = 1_790_000_000_000 + 24 * HOUR
    for number in range(2, COMPACT_EVERY_COMMITS + 12):
        late = Batch("o2", "bin-2", 0, ((number, make_event(label=f"label-{number % 3}")),))
        lake.append(events_table([date_batch(late, received_utc_ms)], received_utc_ms), "log", 9)
        lake.maintain()
        if number % 3 == 0:
            done = aggregate(config, "local")
            assert (done.events, done.computed) == (lake.event_count(), 1 if number > 3 else 2)
            assert len(lake.files(ITEMS)) <= MOST_PARTS + 1
    aggregate(config, "local")
    incremental = _published(lake)
    assert aggregate(config, "local", rebuild=True).computed == 2
    assert _published(lake) == incremental
    assert [r.missing for r in completeness(lake)] == [2, 0]


def test_files_that_are_taken_away_are_not_counted_any_more(lake: Lake, tmp_path: Path) -> None:
    config = HubConfig(lake=tmp_path / "lake")
    assert aggregate(config, "local").events == 10
    DeltaTable(str(lake.folder / EVENTS)).delete("outbox_id = 'o2'")
    assert aggregate(config, "local").events == 9
    assert [r.outbox_id for r in completeness(lake)] == ["o1"]


def test_a_kill_between_the_two_tables_is_mended_by_the_next_aggregation(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HubConfig(lake=tmp_path / "lake")
    with monkeypatch.context() as killed:
        real = Lake.replace_parts

        def die(self: Lake, name: str, *rest: Any) -> None:
            if name == OUTBOXES:
                raise KeyboardInterrupt
            real(self, name, *rest)

        killed.setattr(Lake, "replace_parts", die)
        with pytest.raises(KeyboardInterrupt):
            aggregate(config, "local")
    assert lake.files(ITEMS)
    assert lake.files(OUTBOXES) == []
    done = aggregate(config, "local")
    assert (done.computed, done.events) == (2, 10)
    assert sum(query(lake, ["label"]).column("items").to_pylist()) == 10


def test_statistics_that_are_replaced_for_years_are_cleaned_up(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.lake.store.CLEAN_EVERY_VERSIONS", 4)
    config = HubConfig(lake=tmp_path / "lake")
    for _ in range(9):
        aggregate(config, "local", rebuild=True)
    log = tmp_path / "lake" / ITEMS / "_delta_log"
    assert any("checkpoint" in path.name for path in log.iterdir())
    assert len(lake.files(ITEMS)) == 2
    assert counted_events(lake) == 10


def test_an_empty_lake_and_unknown_groupings_are_explained(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no event in the lake yet"):
        aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    lake = Lake(tmp_path / "lake")
    assert query(lake, ["label"]).to_pylist() == []
    assert completeness(lake) == []
    assert duplicates(lake) == 0
    for bad in ([], ["colour"], ["label", "stream", "decision", "bin_id"], ["label; DROP TABLE x"]):
        with pytest.raises(ConfigError, match="by:"):
            query(lake, bad)
