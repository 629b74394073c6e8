"""The tables of the lake, and the columns of an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

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
    """Return batches as one Arrow table of EVENT_SCHEMA, one row an event."""
    day = datetime.fromtimestamp(received_utc_ms / 1000, UTC).date().isoformat()
    rows = [
        (dated.batch, seq, event, time)
        for dated in batches
        for (seq, event), time in zip(dated.batch.events, dated.event_times, strict=True)
    ]
    columns: dict[str, Any] = {
        "outbox_id": [batch.outbox_id for batch, _, _, _ in rows],
        "seq": [seq for _, seq, _, _ in rows],
        "bin_id": [batch.bin_id for batch, _, _, _ in rows],
        "outbox_dropped": [batch.dropped for batch, _, _, _ in rows],
        "received_utc_ms": [received_utc_ms] * len(rows),
        "event_utc_ms": [time.utc_ms for _, _, _, time in rows],
        "event_time_source": [time.source for _, _, _, time in rows],
        "arrival_date": [day] * len(rows),
        "extra": [
            json.dumps(dict(event.extra), sort_keys=True) if event.extra else None
            for _, _, event, _ in rows
        ],
    }
    for f in _EVENT_FIELDS:
        value_of = attrgetter(f.name)
        columns[f.name] = [value_of(event) for _, _, event, _ in rows]
    arrays = [pa.array(columns[field.name], field.type) for field in EVENT_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)


def rows_to_bytes(table: pa.Table) -> bytes:
    """Return a table as Arrow IPC bytes, compressed."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def rows_from_bytes(data: bytes) -> pa.Table:
    """Return what `rows_to_bytes` was given.

    Raises:
        ArrowException, OSError: it is something else.
    """
    table = pa.ipc.open_stream(data).read_all()
    table.validate(full=True)
    return table
