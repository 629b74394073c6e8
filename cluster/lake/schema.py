"""The tables of the lake, and the columns of an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa

from vision.events import Batch, ItemEvent

# Names of the tables.
EVENTS = "events"
ITEMS = "statistics_items"
OUTBOXES = "statistics_outboxes"

_ARROW = {"int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "float": pa.float64()}
_EVENT_FIELDS = tuple(f for f in fields(ItemEvent) if f.name != "extra")
# `extra` holds the fields of newer bins as JSON text.
EVENT_SCHEMA = pa.schema(
    [
        ("outbox_id", pa.string()),
        ("seq", pa.int64()),
        ("bin_id", pa.string()),
        ("outbox_dropped", pa.int64()),
        ("received_utc_ms", pa.int64()),
        ("event_utc_ms", pa.int64()),
        ("event_time_source", pa.string()),
        ("arrival_date", pa.string()),
        *((f.name, _ARROW[str(f.type)]) for f in _EVENT_FIELDS),
        ("extra", pa.string()),
    ]
)


class EventTime(NamedTuple):
    """When an event happened, and which clock says so.

    Attributes:
        utc_ms: milliseconds since 1970, UTC.
        source: stored as `event_time_source`.
    """

    utc_ms: int
    source: str


@dataclass(frozen=True, slots=True)
class DatedBatch:
    """A batch as it is stored.

    Attributes:
        batch: of one outbox.
        event_times: one for each of its events, in their order.
    """

    batch: Batch
    event_times: tuple[EventTime, ...]


def events_table(batches: Sequence[DatedBatch], received_utc_ms: int) -> pa.Table:
    """Return batches as one Arrow table of EVENT_SCHEMA."""
    day = datetime.fromtimestamp(received_utc_ms / 1000, UTC).date().isoformat()
    rows = []
    for dated in batches:
        batch = dated.batch
        head = {
            "outbox_id": batch.outbox_id,
            "bin_id": batch.bin_id,
            "outbox_dropped": batch.dropped,
            "received_utc_ms": received_utc_ms,
            "arrival_date": day,
        }
        for (seq, event), time in zip(batch.events, dated.event_times, strict=True):
            row = {f.name: getattr(event, f.name) for f in _EVENT_FIELDS}
            extra = json.dumps(dict(event.extra), sort_keys=True) if event.extra else None
            rows.append(
                {
                    **row,
                    **head,
                    "seq": seq,
                    "event_utc_ms": time.utc_ms,
                    "event_time_source": time.source,
                    "extra": extra,
                }
            )
    return pa.Table.from_pylist(rows, schema=EVENT_SCHEMA)
