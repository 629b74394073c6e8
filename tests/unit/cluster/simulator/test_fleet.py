"""The simulated fleet: its truth is what arrives, whatever goes wrong on the way."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from cluster.lake.store import Lake
from cluster.registry.model import Scope
from cluster.registry.store import Registry
from cluster.simulator.city import LABELS, City, Plan
from cluster.simulator.fleet import simulate_here
from cluster.simulator.local import LocalHub
from cluster.simulator.run import Truth, simulate, write_truth
from cluster.simulator.wire import Parcel
from cluster.statistics.completeness import completeness
from cluster.statistics.refresh import refresh
from vision.errors import ConfigError, UplinkError
from vision.signature import Subject
from vision.wire import decode_batch

PLAN = Plan(
    bins=24,
    days=5,
    items_a_day=6.0,
    seed=3,
    cut_off=0.2,
    repeated=0.3,
    wrong_clocks=0.3,
    dirty=0.3,
    full=0.3,
    liars=0.2,
)


class Listening:
    """A hub that keeps what it was sent."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []

    def send(self, some: Sequence[Parcel], now_utc_ms: int) -> None:
        self.parcels += some


def _here(function: Callable[..., Any], *arguments: object) -> Callable[[], Any]:
    return lambda: function(*arguments)


@pytest.fixture
def landed(tmp_path: Path) -> tuple[Lake, Truth]:
    lake = Lake(tmp_path / "lake")
    registry = Registry(f"sqlite:///{tmp_path / 'r.sqlite'}")
    hub = LocalHub(lake, registry)
    truth = simulate(PLAN, hub, _here)
    hub.close()
    registry.close()
    return lake, truth


def test_the_same_seed_gives_the_same_bytes() -> None:
    hubs = [Listening() for _ in range(3)]
    truths = [
        simulate(replace(PLAN, seed=seed), hub, _here)
        for hub, seed in zip(hubs, (3, 3, 4), strict=True)
    ]
    assert hubs[0].parcels == hubs[1].parcels != hubs[2].parcels
    assert truths[0].to_dict() == truths[1].to_dict() != truths[2].to_dict()


def test_all_that_can_go_wrong_does(landed: tuple[Lake, Truth]) -> None:
    _, truth = landed
    city = City(PLAN)
    assert min(truth.repeated, truth.late, int(truth.dropped.sum()), truth.delivered) > 0
    assert min(map(np.sum, (city.wrong_clock, city.dirty, city.full, city.liar))) > 0
    assert truth.thrown.sum() == truth.delivered + truth.dropped.sum()


def test_every_event_of_the_truth_is_in_the_lake_once(landed: tuple[Lake, Truth]) -> None:
    lake, truth = landed
    found = duckdb.execute(
        "SELECT bin_id, label, count(*), count(DISTINCT (outbox_id, seq)) "
        "FROM read_parquet(?, hive_partitioning=false) GROUP BY ALL",
        [lake.files("events")],
    ).fetchall()
    assert all(events == different for _, _, events, different in found)
    city = City(PLAN)
    expected = {
        (city.bin_id(number), LABELS[label]): int(count)
        for (number, label), count in np.ndenumerate(truth.by_bin)
        if count
    }
    assert {(bin_id, label): events for bin_id, label, events, _ in found} == expected


def test_what_full_bins_dropped_is_missing_and_nothing_else(landed: tuple[Lake, Truth]) -> None:
    lake, truth = landed
    refresh(lake, "local")
    rows = {row.bin_id: row for row in completeness(lake)}
    city = City(PLAN)
    for number in range(PLAN.bins):
        row = rows[city.bin_id(number)]
        # What was dropped after the last event that arrived is known at the next one.
        assert 0 <= truth.dropped[number] - row.missing <= 3
        assert row.dropped == truth.dropped[number]
    assert sum(row.missing for row in rows.values()) > 0


def test_a_wrong_clock_is_dated_by_the_hub_to_the_millisecond(landed: tuple[Lake, Truth]) -> None:
    lake, _ = landed
    found = duckdb.execute(
        "SELECT bin_id, event_time_source, event_utc_ms FROM "
        "read_parquet(?, hive_partitioning=false)",
        [lake.files("events")],
    ).fetchall()
    city = City(PLAN)
    wrong = {city.bin_id(int(n)) for n in np.flatnonzero(city.wrong_clock)}
    assert {(source, bin_id in wrong) for bin_id, source, _ in found} == {
        ("hub", True),
        ("bin", False),
    }
    expected = Counter(
        (city.bin_id(n), int(t))
        for n in range(PLAN.bins)
        for day in range(PLAN.days)
        for seen in [city.bin_day(n, day)]
        for t in seen.utc_ms[~seen.dropped]
    )
    assert Counter((bin_id, utc_ms) for bin_id, _, utc_ms in found) == expected


def test_a_bin_that_was_cut_off_sends_in_order_and_everything_arrives_in_the_end() -> None:
    hub = Listening()
    simulate(PLAN, hub, _here)
    last: dict[str, int] = {}
    for parcel in hub.parcels:
        batch = decode_batch(parcel.body)
        numbers = [seq for seq, _ in batch.events]
        assert (parcel.subject.first, parcel.subject.last) == (numbers[0], numbers[-1])
        assert (parcel.subject.outbox_id, parcel.events) == (batch.outbox_id, len(numbers))
        again = numbers[-1] <= last.get(batch.outbox_id, 0)
        assert again or numbers[0] > last.get(batch.outbox_id, 0)
        last[batch.outbox_id] = max(last.get(batch.outbox_id, 0), numbers[-1])
    city = City(PLAN)
    assert {city.sent_on(n, PLAN.days - 1) for n in range(PLAN.bins)} == {PLAN.days - 1}


def test_what_goes_wrong_shows_where_it_should() -> None:
    plan = replace(PLAN, bins=60, items_a_day=60.0, days=10)
    city = City(plan)

    def accuracy(number: int, day: int) -> float:
        seen = city.bin_day(number, day)
        return float((seen.truth == seen.reported).mean())

    sound = [
        n for n in range(plan.bins) if not (city.liar[n] or city.dirty[n] or city._new_model[n])
    ]
    worse = [n for n in range(plan.bins) if city._new_model[n] and not (city.liar | city.dirty)[n]]
    assert np.mean([accuracy(n, 9) for n in sound]) > 0.9
    assert np.mean([accuracy(n, 9) for n in worse]) < 0.88
    assert np.mean([accuracy(n, 1) for n in worse]) > 0.9
    dirty = city.bin_day(int(np.flatnonzero(city.dirty)[0]), 9)
    assert dirty.brightness < 120
    liar = city.bin_day(int(np.flatnonzero(city.liar)[0]), 2)
    assert set(liar.reported.tolist()) == {LABELS.index("paper")}
    mixes = [np.bincount(city.bin_day(n, 0).truth, minlength=6) for n in range(3)]
    assert [int(m.argmax()) for m in mixes[:1]] == [LABELS.index("paper")]


def test_a_fleet_is_registered_and_a_lake_with_events_is_left_alone(tmp_path: Path) -> None:
    plan = replace(PLAN, bins=6, days=1)
    simulate_here(plan, tmp_path / "lake", True, None)
    registry = Registry(f"sqlite:///{tmp_path / 'lake' / 'registry.sqlite'}")
    found = registry.bins(Scope("city-3"))
    registry.close()
    assert [b.place for b in found] == [City(plan).place(n) for n in range(6)]
    with pytest.raises(ConfigError, match="holds events already"):
        simulate_here(plan, tmp_path / "lake", True, None)


def test_a_running_hub_takes_a_fleet_by_its_address(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "binsight"]
    hub = [*command, "hub", "serve", "--set", f"lake={tmp_path / 'lake'}", "--set", "port=0"]
    with subprocess.Popen([*hub, "--set", "token=w"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("hub: ").strip()
        fleet = [*command, "fleet", "simulate", "--bins", "20", "--days", "2", "--hub", url]
        fleet += ["--truth", str(tmp_path / "truth.json")]
        refused = subprocess.run(fleet, capture_output=True, text=True, check=False)
        done = subprocess.run([*fleet, "--token", "w"], capture_output=True, text=True, check=False)
        process.terminate()
        process.wait(60)
    assert (refused.returncode, done.returncode) == (2, 0), done.stderr
    assert "answers 401" in refused.stderr
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert Lake(tmp_path / "lake").event_count() == truth["delivered"] > 0


def test_a_refused_batch_ends_the_run(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'r.sqlite'}")
    hub = LocalHub(Lake(tmp_path / "lake"), registry)
    with pytest.raises(UplinkError, match="answers 400"):
        hub.send([Parcel(b"x", Subject(), 0)], 0)
    hub.close()
    registry.close()


def test_the_truth_is_written_for_programs(tmp_path: Path) -> None:
    truth = simulate(PLAN, Listening(), _here)
    write_truth(truth, tmp_path / "a" / "truth.json")
    document = json.loads((tmp_path / "a" / "truth.json").read_text())
    assert document["delivered"] == sum(document["delivered_by_label"].values())
    assert np.array(document["thrown_by_district_true_reported"]).shape == (3, 6, 6)
