"""Tables in S3-compatible storage: the same events, the same figures, each once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from simulators.ingest import NOW, open_ingest
from simulators.s3 import S3Server, s3_server
from typer.testing import CliRunner

from binsight import app
from cluster.ingest.commit import Ingest
from cluster.ingest.move import LOG_NAME
from cluster.lake.schema import EVENTS, ITEMS
from cluster.lake.storage import Storage, remote_storage
from cluster.lake.store import COMPACT_EVERY_COMMITS, Lake
from cluster.statistics.completeness import completeness
from cluster.statistics.query import duplicates, query
from cluster.statistics.refresh import refresh
from vision.errors import StorageError
from vision.events import Batch, ItemEvent, Receipt
from vision.notes import Note

Make = Callable[..., ItemEvent]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def storage(server: S3Server, request: pytest.FixtureRequest) -> Storage:
    """A prefix of its own for each test."""
    return remote_storage(
        f"s3://city/{request.node.name.translate({91: '-', 93: None})}", server.options
    )


def _fill(lake: Lake, make_event: Make, make_note: Callable[..., Note]) -> None:
    with open_ingest(lake) as ingest:
        for first in (1, 4, 7):
            events = tuple((n, make_event(label=f"label-{n % 4}")) for n in range(first, first + 3))
            assert ingest.commit([Batch("o1", "bin-1", 0, events)]) == [Receipt("o1", first + 2)]
        # A newer bin's field has a column of its own kind: JSON in `extra`.
        ingest.commit([Batch("o2", "bin-2", 0, ((2, make_event(extra={"wind": 3})),))])
        ingest.commit([Batch("n1", "bin-1", 0, (), notes=((1, make_note()),))])


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_figures_are_those_of_a_folder(
    storage: Storage,
    make_event: Make,
    make_note: Callable[..., Note],
    tmp_path: Path,
    engine: str,
) -> None:
    lakes = [Lake(tmp_path / "here"), Lake(tmp_path / "there", storage)]
    for lake in lakes:
        _fill(lake, make_event, make_note)
        assert refresh(lake, engine).events == 10
    here, there = lakes
    by = ["label", "bin_id"]
    assert query(there, by).to_pylist() == query(here, by).to_pylist()
    assert completeness(there) == completeness(here)
    assert (there.event_count(), duplicates(there)) == (10, 0)
    assert not (tmp_path / "there" / EVENTS).exists()
    assert refresh(there, engine).engine == "none"  # nothing has changed
    # Any Delta client reads it.
    frame = pl.read_delta(storage.uri(ITEMS), storage_options=dict(storage.options))
    assert frame["items"].sum() == 10


def test_a_restart_and_a_lost_log_take_nothing_twice(
    storage: Storage, make_event: Make, make_note: Callable[..., Note], tmp_path: Path
) -> None:
    _fill(Lake(tmp_path / "lake", storage), make_event, make_note)
    again = Batch("o1", "bin-1", 0, ((9, make_event()), (10, make_event())))
    with open_ingest(Lake(tmp_path / "lake", storage)) as ingest:
        assert ingest.commit([again]) == [Receipt("o1", 10)]
    # A second hub has another log: it would take again what the first has taken.
    with pytest.raises(StorageError, match="another hub's log feeds these tables"):
        Ingest(Lake(tmp_path / "second", storage), lambda: NOW)
    (tmp_path / "lake" / LOG_NAME).unlink()
    with pytest.raises(StorageError, match="_hub_owner"):
        Ingest(Lake(tmp_path / "lake", storage), lambda: NOW)
    _remove_owner(storage)
    lake = Lake(tmp_path / "lake", storage)
    with open_ingest(lake) as ingest:
        assert (ingest.mark("o1"), ingest.mark("o2"), ingest.mark("n1")) == (10, 2, 1)
        ingest.commit([again])
    assert (lake.event_count(), duplicates(lake)) == (11, 0)


def _remove_owner(storage: Storage) -> None:
    from cluster.lake.storage import _OWNER_NAME, _file_system

    _file_system(storage.url, storage.options).delete_dir(_OWNER_NAME)


def test_small_files_are_compacted_there_too(
    storage: Storage, make_event: Make, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake", storage)
    with open_ingest(lake) as ingest:
        for number in range(1, COMPACT_EVERY_COMMITS + 4):
            ingest.commit([Batch("o1", "b", 0, ((number, make_event()),))])
    assert len(lake.files(EVENTS)) < 8
    assert (lake.event_count(), duplicates(lake)) == (COMPACT_EVERY_COMMITS + 3, 0)


def test_a_storage_that_is_away_costs_nothing(
    server: S3Server, storage: Storage, make_event: Make, tmp_path: Path
) -> None:
    impatient = {**storage.options, "timeout": "5s", "max_retries": "1"}
    lake = Lake(tmp_path / "lake", remote_storage(storage.url, impatient))
    with open_ingest(lake, lake_interval_s=10) as ingest:
        ingest.commit([Batch("o1", "b", 0, ((1, make_event()),))])
        ingest.move()
        ingest.commit([Batch("o1", "b", 0, ((2, make_event()),))])
        with server.away(), pytest.raises(StorageError, match=storage.url):
            ingest.move()
        assert "does not take what waits" in ingest.lake_problem
        assert ingest.waiting_events == 1  # on this machine's disk
        assert (ingest.move(), ingest.lake_problem) == (1, "")
    assert (lake.event_count(), duplicates(lake)) == (2, 0)


def test_the_commands_take_it_from_the_settings(
    storage: Storage, make_event: Make, make_note: Callable[..., Note], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    _fill(Lake(lake, storage), make_event, make_note)
    settings = [f"--set=lake={lake}", f"--set=storage={storage.url}"]
    settings += [f"--set=storage_options.{k}={v}" for k, v in storage.options.items()]
    counted = CliRunner().invoke(app, ["hub", "aggregate", "--engine", "local", *settings])
    assert "10 events" in counted.output
    checked = CliRunner().invoke(app, ["hub", "check", *settings])
    assert f"10 events of 1 arrival dates in 4 files in {storage.url}" in checked.output
    copied = CliRunner().invoke(app, ["hub", "backup", str(tmp_path / "copy"), *settings])
    assert f"the tables are in {storage.url}" in copied.output
    refused = CliRunner().invoke(app, ["hub", "check", "--set", "storage=ftp://city"])
    assert "storage" in str(refused.exception)
