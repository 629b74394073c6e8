"""A lake is refused where it could not work, and has one hub."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars
import pytest
from deltalake import DeltaTable
from simulators.ingest import numbers, open_ingest

from cluster.app import aggregate
from cluster.backup import backup, restore
from cluster.config import HubConfig
from cluster.ingest.commit import Ingest
from cluster.lake.store import COMPACT_EVERY_COMMITS, Lake
from cluster.statistics.completeness import completeness
from cluster.statistics.query import duplicates, query
from vision.errors import StorageError
from vision.events import Batch, ItemEvent, Receipt

# Written by the hub of version 0.1: five events of two outboxes, and their statistics.
OLD_LAKE = Path(__file__).parent / "lake-0.1"
NOW = 1_790_000_200_000


def test_a_lake_where_deltalake_would_lose_its_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name another folder"):
        Lake(tmp_path / "a%20b")


def test_a_second_hub_on_the_same_lake_is_refused(tmp_path: Path) -> None:
    first = Lake(tmp_path / "lake")
    first.claim.take()
    with pytest.raises(StorageError, match="another hub"):
        Lake(tmp_path / "lake").claim.take()


def test_a_hub_that_is_started_often_compacts_too(
    tmp_path: Path, make_event: Callable[..., ItemEvent]
) -> None:
    for n in range(1, COMPACT_EVERY_COMMITS + 2):
        lake = Lake(tmp_path / "lake")
        ingest = Ingest(lake, lambda: NOW)
        ingest.commit([Batch("o1", "bin-1", 0, ((n, make_event()),))])
        ingest.close()
    assert len(Lake(tmp_path / "lake").files("events")) == 2  # a large one, and one since


def test_a_lake_that_is_claimed_for_moments_is_waited_for(tmp_path: Path) -> None:
    first = Lake(tmp_path / "lake")
    first.claim.take()
    threading.Timer(0.5, first.claim.release).start()
    Lake(tmp_path / "lake").claim.take()


@pytest.mark.parametrize("name", ["hub[1]", "hub*", "a?b", "{a,b}"])
def test_a_lake_whose_path_reads_as_a_pattern_is_refused_at_the_start(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(StorageError, match="as a pattern; name another folder"):
        Lake(tmp_path / name / "lake")
    assert list(tmp_path.iterdir()) == []


def test_a_lake_of_an_earlier_version_goes_on_where_it_was(
    tmp_path: Path, make_event: Callable[..., ItemEvent]
) -> None:
    shutil.copytree(OLD_LAKE, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    assert sum(query(lake, ["label"]).column("items").to_pylist()) == 5
    ingest = Ingest(lake, lambda: NOW)
    events = tuple((n, make_event()) for n in (3, 5, 6))
    assert (ingest.mark("o1"), ingest.mark("o2"), ingest.mark("o3")) == (5, 1, 0)
    assert ingest.commit([Batch("o1", "bin-1", 0, events)]) == [Receipt("o1", 6)]
    ingest.close()
    aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    assert [
        (r.outbox_id, r.events, r.max_seq, r.missing, r.dropped) for r in completeness(lake)
    ] == [
        ("o1", 5, 6, 1, 0),
        ("o2", 1, 1, 0, 1),
    ]
    assert duplicates(lake) == 0


def test_any_delta_client_reads_the_lake_while_it_is_written_and_compacted(
    tmp_path: Path, make_event: Callable[..., ItemEvent]
) -> None:
    lake = Lake(tmp_path / "lake")
    ingest = Ingest(lake, lambda: NOW)
    reader = None
    seen = []
    for n in range(1, COMPACT_EVERY_COMMITS + 4):
        ingest.commit([Batch("o1", "bin-1", 0, ((n, make_event()),))])
        ingest.move()
        if n == 2:
            reader = DeltaTable(str(tmp_path / "lake" / "events"))
            files = lake.files("events")
        if n >= COMPACT_EVERY_COMMITS - 1:
            frame = polars.read_delta(str(tmp_path / "lake" / "events"))
            rows = duckdb.execute(
                "SELECT count(DISTINCT seq), count(*) FROM read_parquet(?)", [lake.files("events")]
            ).fetchone()
            seen.append((n, len(frame), rows))
    ingest.close()
    assert len(seen) == 5
    assert [(n, n, (n, n)) for n, _, _ in seen] == seen
    assert reader is not None
    assert reader.to_pyarrow_table().num_rows == 2  # a version that was opened before is still read
    reader.update_incremental()
    assert reader.to_pyarrow_table().num_rows == COMPACT_EVERY_COMMITS + 3
    assert all(Path(file).exists() for file in files)


@pytest.mark.parametrize("taken", ["file", "half of the file", "half of the entry"])
def test_a_commit_that_a_power_cut_tore_is_dropped_and_its_events_come_again(
    tmp_path: Path,
    make_event: Callable[..., ItemEvent],
    monkeypatch: pytest.MonkeyPatch,
    taken: str,
) -> None:
    folder = tmp_path / "lake"
    ingest = Ingest(Lake(folder), lambda: NOW)
    ingest.commit([Batch("o1", "b", 0, ((1, make_event()),))])
    ingest.move()
    ingest.commit([Batch("o1", "b", 0, ((2, make_event()),))])
    before = set(Lake(folder).files("events"))

    def die(*_: object) -> None:
        raise OSError("the power is cut")

    with monkeypatch.context() as cut:  # the lake's commit is written, and not yet synced
        cut.setattr("cluster.lake.store.sync_commit", die)
        with pytest.raises(StorageError):
            ingest.move()
    ingest._log.close()
    ingest._lake.claim.release()
    [new] = set(Lake(folder).files("events")) - before
    entry = folder / "events" / "_delta_log" / f"{1:020}.json"
    if taken == "file":
        Path(new).unlink()
    else:
        path = Path(new) if taken == "half of the file" else entry
        path.write_bytes(path.read_bytes()[:-40])
    with open_ingest(Lake(folder)) as again:
        assert again.mark("o1") == 2
        again.move()
    assert numbers(Lake(folder)) == [1, 2]


def test_a_commit_that_nothing_can_bring_back_is_left_and_named(
    tmp_path: Path, make_event: Callable[..., ItemEvent]
) -> None:
    folder = tmp_path / "lake"
    with open_ingest(Lake(folder)) as ingest:  # each is moved, and the log forgets it
        for n in (1, 2):
            ingest.commit([Batch("o1", "b", 0, ((n, make_event()),))])
    entries = sorted((folder / "events" / "_delta_log").glob("*.json"))
    for file in Lake(folder).files("events"):
        Path(file).unlink()
    with pytest.raises(StorageError, match="put a backup in its place"):
        Ingest(Lake(folder), lambda: NOW)
    assert sorted((folder / "events" / "_delta_log").glob("*.json")) == entries


def test_a_kill_between_compaction_and_its_checkpoint_drops_nothing(
    tmp_path: Path, make_event: Callable[..., ItemEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lake"
    count = COMPACT_EVERY_COMMITS + 1
    with monkeypatch.context() as killed:
        killed.setattr("cluster.lake.store.Lake._clean", lambda *_: None)
        with open_ingest(Lake(folder)) as ingest:
            for n in range(1, count + 1):
                ingest.commit([Batch("o1", "b", 0, ((n, make_event()),))])
    # What the compaction replaced is not in a copy, and its entries are.
    backup(folder, f"sqlite:///{folder / 'registry.sqlite'}", tmp_path / "copy")
    back = tmp_path / "back"
    restore(tmp_path / "copy", back, f"sqlite:///{back / 'registry.sqlite'}")
    assert len(list(back.glob("events/*/*.parquet"))) < count
    for lake in (folder, back):
        with open_ingest(Lake(lake)) as ingest:
            assert ingest.mark("o1") == count
        assert numbers(Lake(lake)) == list(range(1, count + 1))


@pytest.mark.parametrize("left", [b"", b"PAR1 and no more"])
def test_a_checkpoint_that_a_power_cut_tore_is_set_aside(
    tmp_path: Path,
    make_event: Callable[..., ItemEvent],
    monkeypatch: pytest.MonkeyPatch,
    left: bytes,
) -> None:
    folder = tmp_path / "lake"
    count = COMPACT_EVERY_COMMITS + 1
    with monkeypatch.context() as killed:  # before it removes what the checkpoint replaces
        killed.setattr("cluster.lake.store.DeltaTable.cleanup_metadata", lambda *_: None)
        with open_ingest(Lake(folder)) as ingest:
            for n in range(1, count + 1):
                ingest.commit([Batch("o1", "b", 0, ((n, make_event()),))])
    [checkpoint] = (folder / "events" / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(left)
    with open_ingest(Lake(folder)) as ingest:
        assert ingest.mark("o1") == count
    assert numbers(Lake(folder)) == list(range(1, count + 1))
