"""What each bin has numbered against what the lake holds: loss is counted, never silent."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.lake.schema import OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.query import reading
from cluster.statistics.read import read


@dataclass(frozen=True, slots=True)
class Completeness:
    """One outbox of one bin.

    Numbers begin at 1 and rise by 1 in the life of an outbox, so max_seq - events is exactly what
    never arrived (dropped by a full outbox, or set aside by the bin).

    Attributes:
        bin_id: the bin.
        outbox_id: its outbox; a bin that gets a new disk has a second one.
        events: events in the lake.
        max_seq: greatest event number.
        missing: how many are missing below it.
        dropped: events that the bin itself counted as dropped by a full outbox.
        first_received_utc_ms: arrival of the first batch.
        last_received_utc_ms: arrival of the last batch.
    """

    bin_id: str
    outbox_id: str
    events: int
    max_seq: int
    missing: int
    dropped: int
    first_received_utc_ms: int
    last_received_utc_ms: int


def completeness(lake: Lake) -> list[Completeness]:
    """Return one row for each outbox, ordered by bin.

    Raises:
        StorageError: the lake cannot be read.
    """
    files = lake.files(OUTBOXES)
    if not files:
        return []
    columns = (
        "any_value(bin_id) AS bin_id, outbox_id, sum(events)::BIGINT AS events, "
        "max(max_seq) AS max_seq, max(max_seq) - sum(events)::BIGINT AS missing, "
        "max(dropped) AS dropped, min(first_received_utc_ms) AS first_received_utc_ms, "
        "max(last_received_utc_ms) AS last_received_utc_ms"
    )
    with reading() as db:
        outboxes = read(db, files, lake.storage.options).aggregate(columns, "outbox_id")
        rows = outboxes.order("bin_id, outbox_id").fetchall()
    return [Completeness(*row) for row in rows]
