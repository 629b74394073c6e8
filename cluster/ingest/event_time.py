"""When an event happened: the bin's clock where it can be trusted, else the hub's.

Pure: no clock is read here.
"""

from __future__ import annotations

from cluster.lake.schema import DatedBatch, EventTime
from vision.events import Batch, ItemEvent
from vision.notes import Note

# No bin of this make was in a street before.
EARLIEST_UTC_MS = 1_735_689_600_000
# No bin runs longer without a start; a damaged number would else date an event to the ice age.
LONGEST_UPTIME_MS = 10 * 366 * 86_400_000
# No clock runs further ahead than this.
FUTURE_MS = 600_000


def date_batch(batch: Batch, received_utc_ms: int) -> DatedBatch:
    """Return a batch with the time of each of its events, or notes.

    Args:
        batch: as the bin sent it.
        received_utc_ms: time of arrival by the hub's clock.
    """
    records = batch.events or batch.notes
    times = tuple(event_time(record, batch, received_utc_ms) for _, record in records)
    return DatedBatch(batch, times)


def event_time(event: ItemEvent | Note, batch: Batch, received_utc_ms: int) -> EventTime:
    """Return when an event happened, and which clock says so.

    "bin": its wall clock was set, and does not speak of the future. "hub": from the bin's monotonic
    clock, counted back from the arrival. "latest": the bin has started again since, so it was
    before that start; "arrival": the bin says nothing of its clock.

    Args:
        event: or note, one of the batch.
        batch: names the bin's monotonic time of sending.
        received_utc_ms: time of arrival by the hub's clock.
    """
    if event.clock_synced and EARLIEST_UTC_MS <= event.wall_utc_ms <= received_utc_ms + FUTURE_MS:
        return EventTime(event.wall_utc_ms, "bin")
    if not 0 <= batch.sent_monotonic_ms <= LONGEST_UPTIME_MS:
        return EventTime(received_utc_ms, "arrival")
    if event.boot_id == batch.sent_boot_id and 0 <= event.monotonic_ms <= batch.sent_monotonic_ms:
        age_ms = batch.sent_monotonic_ms - event.monotonic_ms
        return EventTime(received_utc_ms - age_ms, "hub")
    return EventTime(received_utc_ms - batch.sent_monotonic_ms, "latest")
