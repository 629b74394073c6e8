"""What is acknowledged is in the log until the lake has it, whatever happens in between."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.ingest import NOW, numbers, open_ingest

from cluster.ingest.commit import Ingest, Limits
from cluster.ingest.ingest_log import IngestLog
from cluster.ingest.move import LOG_NAME, move_waiting
from cluster.lake.store import Lake
from cluster.statistics.query import duplicates
from vision.errors import BusyError, StorageError
from vision.events import Batch, Receipt


def test_a_receipt_needs_the_log_alone_and_the_lake_gets_it_later(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake, lake_interval_s=10) as ingest:
        assert ingest.commit([batch(1, 2)]) == [Receipt("o1", 2)]
        assert ingest.commit([batch(2, 3), batch(1, outbox="o2")])[0] == Receipt("o1", 3)
        assert (lake.files("events"), ingest.waiting_events) == ([], 4)
        assert move_waiting(Lake(tmp_path / "lake")) == 0  # it is the running hub's to do
        assert ingest.move() == 4
        assert ingest.move() == 0
        assert ingest.waiting_events == 0
    assert numbers(lake) == [1, 2, 3]


def test_a_kill_between_the_lakes_commit_and_the_logs_trim_leaves_no_duplicates(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = Ingest(lake, lambda: NOW)
    ingest.commit([batch(1, 2)])
    with monkeypatch.context() as killed:
        real = IngestLog.trim
        calls: list[int] = []

        def die(*given: object) -> None:
            calls.append(1)
            if len(calls) == 2:  # the one after the commit
                raise KeyboardInterrupt
            real(*given)  # type: ignore[arg-type]

        killed.setattr(IngestLog, "trim", die)
        with pytest.raises(KeyboardInterrupt):
            ingest.move()
    lake.claim.release()
    assert numbers(lake) == [1, 2]
    with open_ingest(Lake(tmp_path / "lake")) as again:
        assert again.waiting_events == 0
        assert again.commit([batch(2, 3)]) == [Receipt("o1", 3)]
    assert numbers(lake) == [1, 2, 3]


@pytest.mark.parametrize("how", ["lost", "restored"])
def test_a_log_that_is_lost_or_restored_from_an_old_copy_learns_the_marks_from_the_lake(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "lake" / LOG_NAME
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1, 2)])
    copy = path.read_bytes()
    with open_ingest(lake) as ingest:
        ingest.commit([batch(3, 4), batch(1, outbox="o2")])
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(copy)
    with open_ingest(Lake(tmp_path / "lake")) as again:
        assert (again.mark("o1"), again.mark("o2")) == (4, 1)
        assert again.commit([batch(3, 4, 5)]) == [Receipt("o1", 5)]
    assert numbers(lake) == [1, 2, 3, 4, 5]
    assert duplicates(lake) == 0


def test_marks_of_ten_thousand_outboxes_are_there_at_once(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1, 2, outbox=f"o{i}") for i in range(10_000)])
    started = time.perf_counter()
    with open_ingest(Lake(tmp_path / "lake")) as again:
        seconds = time.perf_counter() - started
        assert [again.mark(f"o{i}") for i in range(10_000)] == [2] * 10_000
    assert seconds < 5


def test_more_than_the_bound_is_refused_as_busy_and_nothing_waits_for_ever(
    lake: Lake, batch: Callable[..., Batch]
) -> None:
    async def run() -> list[object]:
        limits = Limits(waiting_events=4)
        ingest = Ingest(lake, lambda: NOW, limits)
        task = asyncio.create_task(ingest.run())
        answers = await asyncio.gather(
            *(ingest.accept(batch(1, 2, outbox=f"o{i}")) for i in range(5)), return_exceptions=True
        )
        again = await ingest.accept(batch(1, 2, outbox="o4"))
        task.cancel()
        ingest.close()
        return [*answers, again]

    answers = asyncio.run(run())
    assert answers[:2] == [Receipt("o0", 2), Receipt("o1", 2)]
    assert [type(answer) for answer in answers[2:5]] == [BusyError] * 3
    assert answers[5] == Receipt("o4", 2)


def test_a_full_log_is_refused_as_busy_with_the_reason_of_the_lake(
    lake: Lake, batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        ingest = Ingest(lake, lambda: NOW, Limits(log_events=2))
        task = asyncio.create_task(ingest.run())
        await ingest.accept(batch(1, 2))
        with monkeypatch.context() as broken:

            def refuse(*_: object) -> None:
                raise OSError(28, "No space left on device")

            broken.setattr("cluster.lake.durable.os.fsync", refuse)
            with pytest.raises(StorageError, match="No space left"):
                ingest.move()
            with pytest.raises(BusyError, match="No space left"):
                await ingest.accept(batch(3))
        ingest.move()
        await ingest.accept(batch(3))
        task.cancel()
        ingest.close()

    asyncio.run(run())
    assert numbers(lake) == [1, 2, 3]


def test_a_damaged_log_is_an_error_that_names_it(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([batch(1)])
    (tmp_path / "lake" / LOG_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match=LOG_NAME):
        Ingest(lake, lambda: NOW)
    assert lake.claim.try_take()  # whoever mends it is not kept out


@pytest.mark.parametrize(
    "broken",
    ["cluster.ingest.ingest_log.IngestLog.trim", "cluster.lake.store.Lake._count"],
)
@pytest.mark.parametrize("error", [StorageError("disk full"), ValueError("a defect")])
def test_whatever_fails_after_the_lakes_commit_leaves_no_duplicates(
    lake: Lake,
    batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    error: Exception,
) -> None:
    with open_ingest(lake, lake_interval_s=10) as ingest:
        ingest.commit([batch(1)])
        ingest.move()
        ingest.commit([batch(2, 3)])
        with monkeypatch.context() as patch:
            real = IngestLog.trim
            calls: list[int] = []

            def fail(*given: object) -> None:
                calls.append(1)
                if broken.endswith("trim") and len(calls) == 1:  # the one before the commit
                    return real(*given)  # type: ignore[arg-type]
                raise error

            patch.setattr(broken, fail)
            with pytest.raises(StorageError, match=str(error)):
                ingest.move()
            assert str(error) in ingest.lake_problem
            assert ingest.waiting_events == 2
        assert numbers(lake) == [1, 2, 3]  # they are in the lake, and the log does not know it
        ingest.move()
        assert (ingest.waiting_events, ingest.lake_problem) == (0, "")
        assert lake.event_count() == 3
    assert numbers(lake) == [1, 2, 3]


def test_a_move_ends_and_compacts_however_fast_events_come(
    lake: Lake, batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ingest(lake, lake_interval_s=10) as ingest:
        sent = 0

        def send() -> None:
            nonlocal sent
            sent += 1
            ingest.commit([batch(sent)])

        for _ in range(3):
            send()
        real = Lake.append

        def append_while_events_come(self: Lake, *given: object) -> None:
            send()
            real(self, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(Lake, "append", append_while_events_come)
        assert ingest.move() == 3
        assert ingest.waiting_events == 1


def test_a_damaged_entry_is_set_aside_and_named_and_the_others_are_moved(
    lake: Lake, batch: Callable[..., Batch], tmp_path: Path
) -> None:
    with open_ingest(lake, lake_interval_s=10) as ingest:
        for n in (1, 2, 3):
            ingest.commit([batch(n)])
        with ingest._log._db as db:
            db.execute("UPDATE entry SET rows = x'00' WHERE number = 2").fetchall()
        assert ingest.move() == 2
        assert "1 entries of the log are damaged" in ingest.lake_problem
        assert ingest.waiting_events == 0
    assert numbers(lake) == [1, 3]
