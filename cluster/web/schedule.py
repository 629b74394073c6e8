"""The hub's own aggregation, on a schedule, in its process."""

from __future__ import annotations

import asyncio
import logging

from cluster.ingest.commit import Ingest
from cluster.lake.store import Lake
from cluster.statistics.query import counted_events
from cluster.statistics.refresh import refresh

log = logging.getLogger(__name__)


class Schedule:
    """Refreshes the statistics when events have come since the last time.

    Args:
        lake: whose; an object of its own, for it is used in a thread.
        ingest: whose log is moved to the lake before.
        interval_s: between two runs.

    Attributes:
        problem: "", or why the last run failed.
    """

    def __init__(self, lake: Lake, ingest: Ingest, interval_s: float) -> None:
        self._lake = lake
        self._ingest = ingest
        self._interval_s = interval_s
        self.problem = ""

    async def run(self) -> None:
        """Refresh for ever; cancel to stop."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.to_thread(self.refresh)
                self.problem = ""
            except Exception as error:
                log.exception("statistics: the scheduled aggregation failed")
                self.problem = f"the statistics are not up to date ({error})"

    def refresh(self) -> bool:
        """Refresh the statistics if there are new events; return whether there were.

        Raises:
            StorageError: the lake cannot be read or written.
        """
        self._ingest.move()
        events = Lake(self._lake.folder).event_count()
        if events == counted_events(self._lake):
            return False
        refresh(self._lake, "local")
        return True
