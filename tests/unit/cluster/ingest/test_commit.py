"""The hub acknowledges only what is durable, and takes nothing twice."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from simulators.ingest import NOW, numbers, open_ingest

from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.ingest.commit import Ingest
from cluster.ingest.move import LOG_NAME, move_waiting
from cluster.lake.store import COMPACT_EVERY_COMMITS, Lake
from cluster.statistics.completeness import completeness
from cluster.statistics.query import duplicates, labels_in_order, query
from vision.errors import AccessError, StorageError
from vision.events import Batch, Receipt


def test_a_batch_sent_twice_is_stored_once_and_acknowledged_twice(
    lake: Lake, batch: Callable[..., Batch]
) -> None:
    with open_ingest(lake) as ingest:
        assert ingest.commit([batch(1, 2, 3)]) == [Receipt("o1", 3)]
        assert ingest.commit([batch(1, 2, 3)]) == [Receipt("o1", 3)]
        assert ingest.commit([batch(2, 3, 4), batch(4, 5)]) == [Receipt("o1", 4), Receipt("o1", 5)]
    assert numbers(lake) == [1, 2, 3, 4, 5]
    assert (ingest.counters.events, ingest.counters.repeated_events) == (5, 6)
    assert duplicates(lake) == 0


def test_a_new_hub_on_the_same_lake_knows_the_marks(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1, 2), batch(1, outbox="o2")])
    with open_ingest(Lake(tmp_path / "lake")) as again:
        assert again.commit([batch(1, 2), batch(1, outbox="o2")]) == [
            Receipt("o1", 2),
            Receipt("o2", 1),
        ]
    assert numbers(lake) == [1, 2]


def test_a_failed_commit_acknowledges_nothing_and_the_next_try_succeeds(
    lake: Lake, batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1)])
        with monkeypatch.context() as broken:

            def refuse(*_: object) -> None:
                raise OSError(28, "No space left on device")

            broken.setattr("cluster.lake.durable.os.fsync", refuse)
            with pytest.raises(StorageError, match="No space left"):
                ingest.commit([batch(2, 3)])
            assert "No space left" in ingest.lake_problem
        # The rows had reached the lake before the sync failed: the hub must neither lose nor double
        # them, and must not forget them in its log before what it finds in the lake is synced.
        order: list[str] = []
        real = os.sync
        monkeypatch.setattr("cluster.lake.durable.os.sync", lambda: (order.append("sync"), real()))
        assert ingest.waiting_events == 2
        assert ingest.commit([batch(2, 3)]) == [Receipt("o1", 3)]
        assert order == ["sync"]
        assert (ingest.waiting_events, ingest.lake_problem) == (0, "")
    assert numbers(lake) == [1, 2, 3]


def test_the_log_forgets_only_after_an_fsync_of_file_log_and_folders_of_the_lake(
    lake: Lake, batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr("cluster.lake.durable.os.fsync", record)
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1)])
    events = tmp_path / "lake" / "events"
    assert any(name.endswith(".parquet") for name in synced)
    assert str(events / "_delta_log" / "00000000000000000000.json") in synced
    assert {
        str(events),
        str(events / "_delta_log"),
        str(events.parent),
        str(events / "arrival_date=2026-09-21"),
    } <= set(synced)


def test_a_lake_may_lie_anywhere_and_stays_small_whatever_it_was_sent(
    tmp_path: Path, batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "cluster.lake.durable.os.fsync",
        lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name),
    )
    lake = Lake(tmp_path / "my lake 100% #1")
    before = 0.0
    with open_ingest(lake) as ingest:
        for n in range(1, 3 * COMPACT_EVERY_COMMITS + 6):
            ingest.commit([batch(n)])
            if n == COMPACT_EVERY_COMMITS - 1:
                before = len(lake.files("events"))
                listed = lake.files("events")
    assert numbers(lake) == list(range(1, 3 * COMPACT_EVERY_COMMITS + 6))
    assert before == COMPACT_EVERY_COMMITS - 1
    assert len(lake.files_by_arrival()["2026-09-21"]) == 6  # one large one, and five since
    assert all(Path(file).exists() for file in listed)  # a slow reader goes on
    log = tmp_path / "my lake 100% #1" / "events" / "_delta_log"
    checkpoints = {p.name for p in log.iterdir() if "checkpoint" in p.name}
    assert len(checkpoints) >= 2
    assert checkpoints <= set(synced)


def test_many_bins_at_once_share_commits(lake: Lake, batch: Callable[..., Batch]) -> None:
    async def run() -> tuple[list[Receipt], int]:
        ingest = Ingest(lake, lambda: NOW)
        task = asyncio.create_task(ingest.run())
        receipts = await asyncio.gather(
            *(ingest.accept(batch(1, 2, outbox=f"o{i}")) for i in range(50))
        )
        task.cancel()
        ingest.close()
        return receipts, ingest.counters.commits

    receipts, commits = asyncio.run(run())
    assert receipts == [Receipt(f"o{i}", 2) for i in range(50)]
    assert commits < 5


def test_fields_of_newer_bins_reach_the_lake(lake: Lake, batch: Callable[..., Batch]) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1, extra={"lid_current_ma": 310})])
    row = duckdb.execute("SELECT extra FROM read_parquet(?)", [lake.files("events")]).fetchone()
    assert row == ('{"lid_current_ma": 310}',)


@pytest.mark.parametrize("lake_interval_s", ["0", "10"])
def test_what_was_acknowledged_is_there_after_kill(tmp_path: Path, lake_interval_s: str) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from cluster.ingest.commit import Ingest, Limits\n"
        "from cluster.ingest.move import LOG_NAME, move_waiting\n"
        "from cluster.lake.store import Lake\n"
        "from vision.events import Batch, ItemEvent\n"
        "event = ItemEvent(0, 0, '', True, '', '', '', 'glass', 1.0, 1.0, 'paper', 0.0, 'known', "
        "'glass', '', 'moved', "
        "0.0, 0.0, 0.0, 0.0, 0.0)\n"
        "limits = Limits(lake_interval_s=float(sys.argv[3]))\n"
        "ingest = Ingest(Lake(Path(sys.argv[1])), lambda: 0, limits)\n"
        "seq = ingest.mark('o1')\n"
        "while True:\n"
        "    seq += 1\n"
        "    print(ingest.commit([Batch('o1', 'b', 0, ((seq, event),))])[0].acked_seq, "
        "flush=True)\n"
    )
    promised = 0
    for _ in range(3):
        arguments = [
            sys.executable,
            "-c",
            script,
            str(tmp_path / "lake"),
            str(Path(__file__).parents[4]),
            lake_interval_s,
        ]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(10):
            promised = int(process.stdout.readline())
        process.kill()
        for line in process.stdout.read().splitlines():
            promised = int(line)
        process.wait()
        process.stdout.close()
    lake = Lake(tmp_path / "lake")
    move_waiting(lake)
    stored = numbers(lake)
    assert promised >= 30
    assert stored[:promised] == list(range(1, promised + 1))
    assert duplicates(lake) == 0


def test_a_damaged_lake_is_an_error_that_names_it(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1)])
    (tmp_path / "lake" / "events" / "_delta_log" / "00000000000000000000.json").write_text(
        "{broken"
    )
    with pytest.raises(StorageError, match="events"):
        lake.files("events")


@pytest.mark.parametrize("folder", ["bin_id=7", "label=1", "outbox_id=x/seq=3"])
def test_a_folder_that_looks_like_a_column_changes_no_event(
    tmp_path: Path, batch: Callable[..., Batch], folder: str
) -> None:
    config = HubConfig(lake=tmp_path / folder / "lake")
    lake = Lake(config.lake)
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1, 2, 3)])
    aggregate(config, "local")
    assert query(lake, ["bin_id", "label"]).to_pylist() == [
        {"bin_id": "bin-1", "label": "glass", "items": 3}
    ]
    assert [(r.outbox_id, r.max_seq, r.missing) for r in completeness(lake)] == [("o1", 3, 0)]
    assert (labels_in_order(lake), duplicates(lake)) == ({"bin-1": ["glass"] * 3}, 0)


def test_an_outbox_is_of_the_bin_that_used_it_first(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    of_another = replace(batch(2, 3, 99), bin_id="a-liar")
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1)])
        answers = ingest.commit([of_another, batch(2)])
        assert isinstance(answers[0], AccessError)
        assert answers[1] == Receipt("o1", 2)  # its own events are no repeats
        both = [replace(batch(1, outbox="o2"), bin_id=name) for name in ("first", "second")]
        answers = ingest.commit(both)
        assert answers[0] == Receipt("o2", 1)
        assert isinstance(answers[1], AccessError)
    (tmp_path / "lake" / LOG_NAME).unlink()
    with open_ingest(Lake(tmp_path / "lake")) as again:
        assert isinstance(again.commit([of_another])[0], AccessError)
    assert numbers(lake) == [1, 2]


def test_refused_numbers_are_acknowledged_as_refused_and_counted_as_missing(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        sent = replace(batch(1, 3), refused=(2, 4), refusal="why")
        assert ingest.commit([sent]) == [Receipt("o1", 4, (2, 4), "why")]
        assert ingest.commit([batch(4, 5)]) == [Receipt("o1", 5)]
    assert numbers(lake) == [1, 3, 5]
    aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    assert [(r.events, r.max_seq, r.missing) for r in completeness(lake)] == [(3, 5, 2)]
