"""The tables of the lake, and the columns of an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vision.events import Batch, ItemEvent
from vision.notes import Note
from vision.record import record_fields

# Names of the tables.
EVENTS = "events"
NOTES = "notes"
ITEMS = "statistics_items"
OUTBOXES = "statistics_outboxes"
# The hub appends to them what its ingest log holds.
APPENDED = (EVENTS, NOTES)

_ARROW = {int: pa.int64(), str: pa.string(), bool: pa.bool_(), float: pa.float64()}
# Of both tables. An "event" is a row here, a note too.
_HUB_COLUMNS = [
    ("outbox_id", pa.string()),
    ("seq", pa.int64()),
    ("bin_id", pa.string()),
    ("outbox_dropped", pa.int64()),
    ("received_utc_ms", pa.int64()),
    ("event_utc_ms", pa.int64()),
    ("event_time_source", pa.string()),
    ("arrival_date", pa.string()),
]


def _columns(record: type[ItemEvent] | type[Note]) -> list[tuple[str, pa.DataType]]:
    return [(name, _ARROW[kind]) for name, kind in record_fields(record).kinds.items()]


# `extra` holds the fields of newer bins as JSON text.
EVENT_SCHEMA = pa.schema([*_HUB_COLUMNS, *_columns(ItemEvent), ("extra", pa.string())])
NOTE_SCHEMA = pa.schema([*_HUB_COLUMNS, *_columns(Note), ("extra", pa.string())])


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
        event_times: one for each of its events, or notes, in their order.
    """

    batch: Batch
    event_times: tuple[EventTime, ...]


def events_table(batches: Sequence[DatedBatch], received_utc_ms: int) -> pa.Table:
    """Return the events of batches as one Arrow table of EVENT_SCHEMA, one row an event."""
    return _table([(dated, dated.batch.events) for dated in batches], received_utc_ms, EVENT_SCHEMA)


def notes_table(batches: Sequence[DatedBatch], received_utc_ms: int) -> pa.Table:
    """Return the notes of batches as one Arrow table of NOTE_SCHEMA, one row a note."""
    return _table([(dated, dated.batch.notes) for dated in batches], received_utc_ms, NOTE_SCHEMA)


def _table(
    batches: Sequence[tuple[DatedBatch, Sequence[tuple[int, ItemEvent | Note]]]],
    received_utc_ms: int,
    schema: pa.Schema,
) -> pa.Table:
    # What is one value for a whole batch is made once: it is a third of the time.
    day = datetime.fromtimestamp(received_utc_ms / 1000, UTC).date().isoformat()
    each = np.repeat(np.arange(len(batches)), [len(records) for _, records in batches])
    records = [record for _, own in batches for _, record in own]
    times = [time for dated, _ in batches for time in dated.event_times]
    count = len(records)
    columns = {
        "outbox_id": pa.array([d.batch.outbox_id for d, _ in batches], pa.string()).take(each),
        "seq": pa.array([seq for _, own in batches for seq, _ in own], pa.int64()),
        "bin_id": pa.array([d.batch.bin_id for d, _ in batches], pa.string()).take(each),
        "outbox_dropped": pa.array([d.batch.dropped for d, _ in batches], pa.int64()).take(each),
        "received_utc_ms": pa.repeat(received_utc_ms, count),
        "event_utc_ms": pa.array([time.utc_ms for time in times], pa.int64()),
        "event_time_source": pa.array([time.source for time in times], pa.string()),
        "arrival_date": pa.repeat(day, count),
        "extra": pa.array(
            [json.dumps(dict(r.extra), sort_keys=True) if r.extra else None for r in records],
            pa.string(),
        ),
    }
    arrays = [
        columns[column.name]
        if column.name in columns
        else pa.array(list(map(attrgetter(column.name), records)), column.type)
        for column in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


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
