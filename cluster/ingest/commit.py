"""Batches in, receipts out.

A receipt is given only when the events are durable in the lake; a batch may be sent twice.

Group commit: batches that arrive within a short interval share one commit. One committer runs at a
time, so the high-water marks it reads cannot change under it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.ingest.event_time import date_batch
from cluster.lake.store import Lake
from vision.errors import StorageError
from vision.events import Batch, Receipt

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What the hub has taken since its start."""

    batches: int = 0
    events: int = 0
    repeated_events: int = 0
    commits: int = 0


class Ingest:
    """Accepts batches; `run` must be running.

    Args:
        lake: where events go.
        now_utc_ms: the hub's clock.
        interval_s: time over which batches are gathered.
        commit_events: events in one commit at most.

    Attributes:
        broken: "", or what ended `run`: nothing is taken any more, and the hub must be started
            again.
    """

    def __init__(
        self, lake: Lake, now_utc_ms: Callable[[], int], interval_s: float, commit_events: int
    ) -> None:
        self._lake = lake
        self._now_utc_ms = now_utc_ms
        self._interval_s = interval_s
        self._commit_events = commit_events
        self._queue: asyncio.Queue[tuple[Batch, asyncio.Future[Receipt]]] = asyncio.Queue()
        self._group: list[tuple[Batch, asyncio.Future[Receipt]]] = []
        self._marks: dict[str, int] = {}
        self.counters = Counters()
        self.broken = ""

    async def accept(self, batch: Batch) -> Receipt:
        """Return the receipt of a batch once all its events are durable.

        Raises:
            StorageError: they are not; the bin must send them again.
        """
        if self.broken:
            raise StorageError(self.broken)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        await self._queue.put((batch, future))
        return await future

    async def run(self) -> None:
        """Commit what arrives, for ever; cancel to stop.

        Whatever ends it leaves no batch without an answer.
        """
        try:
            while True:
                await self._commit_next()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.broken = f"the hub takes no events any more, start it again ({error!r})"
            log.critical("ingest: %s", self.broken, exc_info=error)
            while not self._queue.empty():
                self._group.append(self._queue.get_nowait())
            self._refuse(StorageError(self.broken))
            raise

    async def _commit_next(self) -> None:
        self._group = [await self._queue.get()]
        await asyncio.sleep(self._interval_s)
        events = len(self._group[0][0].events)
        while not self._queue.empty() and events < self._commit_events:
            self._group.append(self._queue.get_nowait())
            events += len(self._group[-1][0].events)
        try:
            receipts = await asyncio.to_thread(self.commit, [batch for batch, _ in self._group])
        except Exception as error:
            log.exception("ingest: %d batches are refused", len(self._group))
            self._refuse(StorageError(f"the batch could not be stored ({error})"))
            return
        for (_, future), receipt in zip(self._group, receipts, strict=True):
            if not future.done():  # a bin that hung up will ask again
                future.set_result(receipt)

    def _refuse(self, error: StorageError) -> None:
        for _, future in self._group:
            if not future.done():
                future.set_exception(error)

    def commit(self, batches: list[Batch]) -> list[Receipt]:
        """Store what is new of these batches in one commit; return a receipt for each.

        Raises:
            StorageError: nothing of them may be taken as stored.
        """
        marks = {b.outbox_id: self._mark(b.outbox_id) for b in batches}
        fresh: list[Batch] = []
        receipts = []
        for batch in batches:
            new = tuple(pair for pair in batch.events if pair[0] > marks[batch.outbox_id])
            if new:
                marks[batch.outbox_id] = new[-1][0]
                fresh.append(replace(batch, events=new))
            receipts.append(Receipt(batch.outbox_id, marks[batch.outbox_id]))
        sent = sum(len(b.events) for b in batches)
        stored = sum(len(b.events) for b in fresh)
        if fresh:
            try:
                received_utc_ms = self._now_utc_ms()
                dated = [date_batch(batch, received_utc_ms) for batch in fresh]
                self._lake.append(dated, received_utc_ms)
            except BaseException:
                # The commit may or may not have reached the disk: ask the lake again next time.
                for outbox_id in marks:
                    self._marks.pop(outbox_id, None)
                raise
            self.counters.commits += 1
        self._marks.update(marks)
        self.counters.batches += len(batches)
        self.counters.events += stored
        self.counters.repeated_events += sent - stored
        return receipts

    def _mark(self, outbox_id: str) -> int:
        if outbox_id not in self._marks:
            self._marks[outbox_id] = self._lake.high_water_mark(outbox_id)
        return self._marks[outbox_id]
