"""The hub's own aggregation, on a schedule, in its process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster.ingest.commit import Ingest
from cluster.lake.store import Lake
from cluster.registry.store import Registry
from cluster.statistics.query import query
from cluster.statistics.refresh import refresh

log = logging.getLogger(__name__)


class Schedule:
    """Refreshes the statistics when events have come since the last time.

    Args:
        lake: whose; an object of its own, for it is used in a thread.
        ingest: whose log is moved to the lake before.
        registry: notes which bundle each bin was seen to decide by.
        now_utc_ms: the hub's clock.
        interval_s: between two runs.

    Attributes:
        problem: "", or why the last run failed.
    """

    def __init__(
        self,
        lake: Lake,
        ingest: Ingest,
        registry: Registry,
        now_utc_ms: Callable[[], int],
        interval_s: float,
    ) -> None:
        self._lake = lake
        self._ingest = ingest
        self._registry = registry
        self._now_utc_ms = now_utc_ms
        self._interval_s = interval_s
        self.problem = ""

    async def run(self) -> None:
        """Refresh for ever; cancel to stop."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
                self.problem = ""
            except Exception as error:
                log.exception("statistics: the scheduled aggregation failed")
                self.problem = f"the statistics are not up to date ({error})"
            await asyncio.sleep(self._interval_s)

    def refresh(self) -> bool:
        """Refresh the statistics if events are new, or were counted by an earlier version.

        Returns:
            Whether anything was counted.

        Raises:
            StorageError: the lake cannot be read or written.
        """
        self._ingest.move()
        if not self._lake.has_events() or refresh(self._lake, "local").engine == "none":
            return False
        seen = query(self._lake, ["bin_id", "model_digest"]).to_pylist()
        pairs = [(row["bin_id"], row["model_digest"]) for row in seen]
        self._registry.saw_models(pairs, self._now_utc_ms())
        return True
