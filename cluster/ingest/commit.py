"""Batches in, receipts out, and on into the lake.

A receipt is given only when the events are durable in the ingest log; a batch may be sent twice.
What the log holds is moved to the lake in larger, rarer commits, and each entry once: the lake's
commit names the last entry that it holds, and only then the log forgets it.

Group commit: batches that arrive within a short interval share one transaction. One committer runs
at a time, so the high-water marks cannot change under it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.ingest.event_time import date_batch
from cluster.ingest.ingest_log import LastNote, Rows
from cluster.ingest.move import MOVED_ROWS, move_entries, open_settled
from cluster.lake.schema import (
    APPENDED,
    EVENTS,
    NOTES,
    DatedBatch,
    events_table,
    notes_table,
    rows_to_bytes,
)
from cluster.lake.store import Lake
from vision.errors import AccessError, BusyError, StorageError
from vision.events import Batch, Receipt
from vision.notes import NoteKind

log = logging.getLogger(__name__)

# How often the mover looks whether enough has come together.
_MOVER_TICK_S = 0.5
# Notes are few, and the last ones are in the log: they wait for so many intervals.
_NOTES_EVERY = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and times of the way in.

    Attributes:
        commit_interval_s: batches that arrive within it share one durable transaction.
        commit_events: events in one transaction at most.
        lake_interval_s: time between two commits to the lake; 0 moves each group before its
            receipts are given.
        lake_events: so many that wait in the log are moved at once.
        waiting_events: events in memory that wait for their transaction at most.
        log_events: events that wait in the log at most, if the lake does not take them.
    """

    commit_interval_s: float = 0.05
    commit_events: int = 50_000
    lake_interval_s: float = 10.0
    lake_events: int = MOVED_ROWS
    waiting_events: int = 200_000
    log_events: int = 20_000_000


@dataclass(slots=True)
class Counters:
    """What the hub has taken since its start."""

    batches: int = 0
    events: int = 0
    repeated_events: int = 0
    commits: int = 0


class Ingest:
    """Accepts batches; `run` must be running. It claims the lake until it is closed.

    Args:
        lake: where events go.
        now_utc_ms: the hub's clock.
        limits: sizes and times.

    Attributes:
        broken: "", or what ended `run`: nothing is taken any more, and the hub must be started
            again.
        lake_problem: "", or why the lake did not take the events that wait in the log.

    Raises:
        StorageError: another hub has the lake, or the log or the lake cannot be read.
    """

    def __init__(
        self, lake: Lake, now_utc_ms: Callable[[], int], limits: Limits | None = None
    ) -> None:
        self._lake = lake
        self._now_utc_ms = now_utc_ms
        self._limits = limits or Limits()
        self._queue: asyncio.Queue[tuple[Batch, asyncio.Future[Receipt]]] = asyncio.Queue()
        self._queued_events = 0
        self._group: list[tuple[Batch, asyncio.Future[Receipt]]] = []
        self._moving = threading.Lock()
        self.counters = Counters()
        self.broken = ""
        self.lake_problem = ""
        lake.claim.take()
        try:
            self._log = open_settled(lake)
        except StorageError:
            lake.claim.release()
            raise
        outboxes = self._log.outboxes()
        self._marks = {outbox_id: mark for outbox_id, (_, mark) in outboxes.items()}
        self._owners = {outbox_id: owner for outbox_id, (owner, _) in outboxes.items()}

    @property
    def waiting_events(self) -> int:
        """Return how many acknowledged events the lake does not hold yet."""
        return self._log.waiting_events

    def last_notes(self) -> list[LastNote]:
        """Return the last note of each kind of each bin.

        Raises:
            StorageError: the log cannot be read.
        """
        return self._log.last_notes()

    def mark(self, outbox_id: str) -> int:
        """Return the greatest acknowledged event number of an outbox, 0 for an unknown one."""
        return self._marks.get(outbox_id, 0)

    async def accept(self, batch: Batch) -> Receipt:
        """Return the receipt of a batch once all its events are durable.

        Raises:
            AccessError: the outbox is another bin's.
            BusyError: too much waits already.
            StorageError: they are not durable. Either way the bin must send them again.
        """
        if self.broken:
            raise StorageError(self.broken)
        if self._queued_events >= self._limits.waiting_events:
            raise BusyError(f"{self._queued_events} events wait for the disk; send them later")
        if self._log.waiting_events >= self._limits.log_events:
            raise BusyError(
                f"{self._log.waiting_events} events wait for the lake; send them later "
                f"({self.lake_problem})"
            )
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queued_events += batch.count
        await self._queue.put((batch, future))
        return await future

    async def run(self) -> None:
        """Commit what arrives and move it to the lake, for ever; cancel to stop.

        Whatever ends it leaves no batch without an answer.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._commit_for_ever())
                if self._limits.lake_interval_s:
                    tasks.create_task(self._move_for_ever())
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            self.broken = f"the hub takes no events any more, start it again ({cause!r})"
            log.critical("ingest: %s", self.broken, exc_info=error)
            while not self._queue.empty():
                self._group.append(self._queue.get_nowait())
            self._refuse(StorageError(self.broken))
            raise

    async def _commit_for_ever(self) -> None:
        while True:
            await self._commit_next()

    async def _commit_next(self) -> None:
        self._group = [await self._queue.get()]
        await asyncio.sleep(self._limits.commit_interval_s)
        events = self._group[0][0].count
        while not self._queue.empty() and events < self._limits.commit_events:
            self._group.append(self._queue.get_nowait())
            events += self._group[-1][0].count
        self._queued_events -= events
        try:
            receipts = await asyncio.to_thread(self.commit, [batch for batch, _ in self._group])
        except Exception as error:
            log.exception("ingest: %d batches are refused", len(self._group))
            self._refuse(StorageError(f"the batch could not be stored ({error})"))
            return
        for (_, future), receipt in zip(self._group, receipts, strict=True):
            if future.done():  # a bin that hung up will ask again
                continue
            if isinstance(receipt, AccessError):
                future.set_exception(receipt)
            else:
                future.set_result(receipt)

    async def _move_for_ever(self) -> None:
        waited_s = notes_waited_s = 0.0
        failed = False
        while True:
            await asyncio.sleep(_MOVER_TICK_S)
            waited_s += _MOVER_TICK_S
            notes_waited_s += _MOVER_TICK_S
            due = []
            full = self._log.waiting_events >= self._limits.lake_events and not failed
            if self._log.waiting_events and (full or waited_s >= self._limits.lake_interval_s):
                waited_s = 0.0
                due.append(EVENTS)
            if notes_waited_s >= _NOTES_EVERY * self._limits.lake_interval_s:
                # Events too: a table that takes notes must not hide one that takes no events.
                notes_waited_s = 0.0
                due = [EVENTS, NOTES]
            if due:
                try:
                    await asyncio.to_thread(self.move, due)
                    failed = False
                except StorageError:
                    failed = True
                    log.exception("ingest: the lake does not take what waits in the log")

    def _refuse(self, error: StorageError) -> None:
        for _, future in self._group:
            if not future.done():
                future.set_exception(error)

    def commit(self, batches: list[Batch]) -> list[Receipt | AccessError]:
        """Store what is new of these batches in one transaction; return a receipt for each.

        An outbox belongs to the bin that was the first to use it: another bin's numbers under it
        would have its own events taken for repeats. Such a batch gets an error for a receipt.

        Raises:
            StorageError: nothing of them may be taken as stored.
        """
        marks = {b.outbox_id: self.mark(b.outbox_id) for b in batches}
        owners = {b.outbox_id: self._owners.get(b.outbox_id, "") for b in batches}
        fresh: list[Batch] = []
        receipts: list[Receipt | AccessError] = []
        for batch in batches:
            owner = owners[batch.outbox_id] = owners[batch.outbox_id] or batch.bin_id
            if owner != batch.bin_id:
                receipts.append(AccessError(f"outbox {batch.outbox_id} is of another bin"))
                continue
            new = _after(batch, marks[batch.outbox_id])
            if new.count:
                fresh.append(new)
            marks[batch.outbox_id] = max(marks[batch.outbox_id], batch.last_seq)
            receipts.append(
                Receipt(batch.outbox_id, marks[batch.outbox_id], batch.refused, batch.refusal)
            )
        taken = zip(batches, receipts, strict=True)
        sent = sum(len(b.events) for b, r in taken if isinstance(r, Receipt))
        stored = sum(len(b.events) for b in fresh)
        if fresh:
            received_utc_ms = self._now_utc_ms()
            dated = [date_batch(batch, received_utc_ms) for batch in fresh]
            news = {b.outbox_id: (b.bin_id, marks[b.outbox_id]) for b in fresh}
            groups = _groups(dated, received_utc_ms)
            self._log.append(groups, news, _last_notes(dated, received_utc_ms))
            self._marks.update({outbox_id: mark for outbox_id, (_, mark) in news.items()})
            self._owners.update({outbox_id: owner for outbox_id, (owner, _) in news.items()})
            self.counters.commits += 1
        self.counters.batches += len(batches)
        self.counters.events += stored
        self.counters.repeated_events += sent - stored
        if not self._limits.lake_interval_s:
            self.move()
        return receipts

    def move(self, tables: Sequence[str] = APPENDED) -> int:
        """Move what waits in the log to the lake, and return how many rows that were.

        Args:
            tables: to these.

        Raises:
            StorageError: the lake does not take them; they stay in the log.
        """
        with self._moving:
            try:
                moved = sum(
                    move_entries(self._log, self._lake, table, self._limits.lake_events)
                    for table in tables
                )
            except Exception as error:
                self.lake_problem = f"the lake does not take what waits in the log ({error})"
                raise StorageError(self.lake_problem) from error
            damaged = self._log.set_aside_entries()
            self.lake_problem = f"{damaged} entries of the log are damaged" if damaged else ""
            return moved

    def close(self) -> None:
        """Move what waits, if the lake takes it, and give the lake free."""
        try:
            self.move()
        except StorageError:
            log.exception("ingest: what waits in the log stays there until the next start")
        finally:
            with self._moving:
                self._log.close()
                self._lake.claim.release()


def _after(batch: Batch, mark: int) -> Batch:
    """Return a batch with what has a greater number than a mark."""
    if batch.notes:
        return replace(batch, notes=tuple(pair for pair in batch.notes if pair[0] > mark))
    return replace(batch, events=tuple(pair for pair in batch.events if pair[0] > mark))


def _groups(dated: Sequence[DatedBatch], received_utc_ms: int) -> list[Rows]:
    """Return the rows of batches for the tables of the lake."""
    events = events_table([d for d in dated if d.batch.events], received_utc_ms)
    notes = notes_table([d for d in dated if d.batch.notes], received_utc_ms)
    tables = {EVENTS: events, NOTES: notes}
    return [
        Rows(name, table.num_rows, rows_to_bytes(table))
        for name, table in tables.items()
        if table.num_rows
    ]


def _last_notes(dated: Sequence[DatedBatch], received_utc_ms: int) -> list[LastNote]:
    """Return the last note of each bin and kind."""
    last: dict[tuple[str, str], LastNote] = {}
    for one in dated:
        for (_, note), time in zip(one.batch.notes, one.event_times, strict=False):
            if note.kind not in set(NoteKind):  # of a newer bin, or of one that makes them up
                continue
            bin_id = one.batch.bin_id
            last[bin_id, note.kind] = LastNote(
                bin_id, note.kind, received_utc_ms, time.utc_ms, json.dumps(note.to_dict())
            )
    return list(last.values())
