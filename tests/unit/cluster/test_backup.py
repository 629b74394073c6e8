"""A copy is whole or says that it is not; what was acknowledged before it is in it, once."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.ingest import NOW, numbers, open_ingest

from cluster.backup import MANIFEST_NAME, backup, restore
from cluster.lake.store import Lake
from cluster.registry.model import Place, Scope
from cluster.registry.store import Registry
from vision.errors import ConfigError, StorageError
from vision.events import Batch, ItemEvent

Make = Callable[..., ItemEvent]


def _url(lake: Path) -> str:
    return f"sqlite:///{lake / 'registry.sqlite'}"


@pytest.fixture
def hub(tmp_path: Path, make_event: Make) -> Path:
    """A lake with three events, one of them still in the log, and a registry of one bin."""
    folder = tmp_path / "lake"
    event = make_event()
    registry = Registry(_url(folder))
    registry.place([Place("b", "city")], NOW)
    registry.close()
    with open_ingest(Lake(folder)) as ingest:
        ingest.commit([Batch("o1", "b", 0, ((1, event), (2, event)))])
    ingest = open_ingest(Lake(folder), 60)
    opened = ingest.__enter__()
    opened.commit([Batch("o1", "b", 0, ((3, event),))])
    opened._log.close()  # as a kill leaves it
    opened._lake.claim.release()
    return folder


def test_a_copy_comes_back_with_what_waited_in_the_log(
    hub: Path, tmp_path: Path, make_event: Make
) -> None:
    done = backup(hub, _url(hub), tmp_path / "copy")
    assert (done.events, done.waiting_events, done.bins) == (2, 1, 1)
    shutil.rmtree(hub)
    assert restore(tmp_path / "copy", hub, _url(hub)) == done
    registry = Registry(_url(hub))
    assert [b.place for b in registry.bins(Scope())] == [Place("b", "city")]
    registry.close()
    with open_ingest(Lake(hub)) as ingest:
        assert ingest.mark("o1") == 3
        ingest.commit([Batch("o1", "b", 0, ((3, make_event()), (4, make_event())))])
    assert numbers(Lake(hub)) == [1, 2, 3, 4]


def test_a_copy_of_a_hub_at_work_holds_what_was_acknowledged_and_nothing_twice(
    tmp_path: Path, make_event: Make
) -> None:
    folder = tmp_path / "lake"
    acknowledged = 0
    stop = threading.Event()
    event = make_event()
    with open_ingest(Lake(folder), 60) as ingest:

        def work() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                first = acknowledged + 1
                ingest.commit(
                    [Batch("o1", "b", 0, tuple((n, event) for n in range(first, first + 5)))]
                )
                acknowledged = first + 4
                if acknowledged % 50 == 0:
                    ingest.move()

        thread = threading.Thread(target=work)
        thread.start()
        copies = []
        try:
            while acknowledged < 200:
                threading.Event().wait(0.01)
            for n in range(4):
                before = acknowledged
                backup(folder, _url(folder), tmp_path / f"copy-{n}")
                copies.append((tmp_path / f"copy-{n}", before))
                while acknowledged < before + 60:
                    threading.Event().wait(0.01)
        finally:
            stop.set()
            thread.join()
    for copy, before in copies:
        back = copy.with_suffix(".back")
        restore(copy, back, _url(back))
        with open_ingest(Lake(back)) as ingest:
            ingest.move()
            mark = ingest.mark("o1")
        found = numbers(Lake(back))
        assert found == list(range(1, mark + 1))
        assert mark >= before


def test_a_lake_without_a_registry_is_copied_and_gets_none(hub: Path, tmp_path: Path) -> None:
    (hub / "registry.sqlite").unlink()
    assert backup(hub, _url(hub), tmp_path / "copy").bins == 0
    assert not (hub / "registry.sqlite").exists()
    restore(tmp_path / "copy", tmp_path / "back", _url(tmp_path / "back"))
    assert numbers(Lake(tmp_path / "back")) == [1, 2]


def test_a_copy_that_was_cut_off_is_no_copy(hub: Path, tmp_path: Path) -> None:
    backup(hub, _url(hub), tmp_path / "copy")
    (tmp_path / "copy" / MANIFEST_NAME).unlink()
    with pytest.raises(ConfigError, match="no whole copy"):
        restore(tmp_path / "copy", tmp_path / "back", _url(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_copy_with_a_lost_file_is_noticed(hub: Path, tmp_path: Path) -> None:
    backup(hub, _url(hub), tmp_path / "copy")
    for log in (tmp_path / "copy" / "events" / "_delta_log").glob("*.json"):
        log.unlink()
    with pytest.raises(StorageError, match="events"):
        restore(tmp_path / "copy", tmp_path / "back", _url(tmp_path / "back"))


def test_nothing_is_written_over(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(ConfigError, match="holds something already"):
        backup(hub, _url(hub), tmp_path / "full")
    with pytest.raises(ConfigError, match="is it the lake's folder"):
        backup(tmp_path / "nowhere", _url(hub), tmp_path / "copy")
    backup(hub, _url(hub), tmp_path / "copy")
    with pytest.raises(ConfigError, match="holds something already"):
        restore(tmp_path / "copy", hub, _url(hub))
    with pytest.raises(ConfigError, match="is there already"):
        restore(tmp_path / "copy", tmp_path / "back", _url(hub))
    # What a killed hub left beside its registry would be read into the restored one.
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "registry.sqlite-wal").write_bytes(b"old")
    with pytest.raises(ConfigError, match=r"registry\.sqlite-wal"):
        restore(tmp_path / "copy", tmp_path / "back", _url(tmp_path / "aside"))


def test_a_full_disk_leaves_no_whole_copy(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.lake.copy.shutil.copy2", full)
    with pytest.raises(StorageError, match="No space left"):
        backup(hub, _url(hub), tmp_path / "copy")
    assert not (tmp_path / "copy" / MANIFEST_NAME).exists()


def test_the_copy_is_asked_while_the_loop_of_a_hub_runs(hub: Path, tmp_path: Path) -> None:
    async def run() -> int:
        done = await asyncio.to_thread(backup, hub, _url(hub), tmp_path / "copy")
        return done.events

    assert asyncio.run(run()) == 2
