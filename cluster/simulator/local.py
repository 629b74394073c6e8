"""A hub in this process that lives by the city's clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest, Limits
from cluster.ingest.front_end import FrontEnd, Reply, Request
from cluster.lake.store import Lake
from cluster.registry.store import Registry
from cluster.simulator.wire import Parcel
from vision.errors import UplinkError
from vision.signature import HTTP_METHOD
from vision.wire import INGEST_PATH


class LocalHub:
    """The hub's own front end, log and lake, without HTTP.

    Args:
        lake: where events go.
        registry: who may send them.
    """

    def __init__(self, lake: Lake, registry: Registry) -> None:
        self._now_utc_ms = 0
        limits = Limits(commit_interval_s=0.0)
        self.ingest = Ingest(lake, lambda: self._now_utc_ms, limits)
        self._access = Access(registry, lambda: self._now_utc_ms)
        self._front_end = FrontEnd(self.ingest, self._access)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running = asyncio.run_coroutine_threadsafe(self.ingest.run(), self._loop)

    def send(self, some: Sequence[Parcel], now_utc_ms: int) -> None:
        """Deliver batches at a time of the city.

        Raises:
            UplinkError: one was refused.
        """
        self._now_utc_ms = max(self._now_utc_ms, now_utc_ms)
        replies = asyncio.run_coroutine_threadsafe(self._answers(some), self._loop).result()
        for reply in replies:
            if reply.status != 200:
                raise UplinkError(f"the hub answers {reply.status}: {reply.body[:200]!r}")

    def close(self) -> None:
        """Move what waits to the lake and give it free."""
        self._running.cancel()
        asyncio.run_coroutine_threadsafe(_ended(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._access.close()
        self.ingest.close()

    async def _answers(self, some: Sequence[Parcel]) -> list[Reply]:
        asked = [Request(HTTP_METHOD, INGEST_PATH, parcel.body, {}) for parcel in some]
        return await asyncio.gather(*(self._front_end.answer(request) for request in asked))


async def _ended() -> None:
    """Wait until all other tasks of the loop have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
