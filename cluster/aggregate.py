"""Events to statistics: one DuckDB kernel for a part of the lake, and a merge that only adds.

`aggregate_files` runs in this process or as a Ray task; it makes no difference. Merging adds counts
and takes extremes, so the order in which parts arrive does not matter, nor how late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

CONFIDENCE_BINS = 10
KEYS = ("bin_id", "hour_utc_ms", "model_digest", "rule_book", "label", "decision", "stream")
HISTOGRAM = tuple(f"confidence_{k}" for k in range(CONFIDENCE_BINS))
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Aggregates of some events.

    Attributes:
        items: KEYS, `items` (count), HISTOGRAM (counts of confidence in tenths).
        outboxes: outbox_id, bin_id, `events`, `max_seq`, `dropped`, `first_received_utc_ms`,
            `last_received_utc_ms`.
    """

    items: pa.Table
    outboxes: pa.Table


def aggregate_files(files: Sequence[str]) -> Statistics:
    """Aggregate the events of some Parquet files.

    The hour is that of `cluster.lake.event_time`.
    """
    histogram = ", ".join(
        f"count(*) FILTER (least(floor(confidence * {CONFIDENCE_BINS}), {CONFIDENCE_BINS - 1}) = "
        f"{k}) AS confidence_{k}"
        for k in range(CONFIDENCE_BINS)
    )
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        # A folder called label=1 above the lake is no column: every column that counts is in the
        # files.
        db.read_parquet(list(files), hive_partitioning=False, union_by_name=True).create_view(
            "event"
        )
        # in a lake of an earlier version
        when = "CASE WHEN clock_synced THEN wall_utc_ms ELSE received_utc_ms END"
        if "event_utc_ms" in db.view("event").columns:
            when = f"coalesce(event_utc_ms, {when})"
        items = db.sql(
            f"""SELECT bin_id, ({when}) // {_HOUR_MS} * {_HOUR_MS} AS hour_utc_ms,
                  model_digest, rule_book, label, decision, stream, count(*) AS items, {histogram}
                FROM event GROUP BY ALL"""  # noqa: S608
        )
        outboxes = db.sql(
            """SELECT outbox_id, any_value(bin_id) AS bin_id, count(*) AS events, max(seq) AS max_seq,
                 max(outbox_dropped) AS dropped, min(received_utc_ms) AS first_received_utc_ms,
                 max(received_utc_ms) AS last_received_utc_ms
               FROM event GROUP BY outbox_id"""
        )
        return Statistics(items.to_arrow_table(), outboxes.to_arrow_table())


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Add up parts; of an empty list there is no merge."""
    with duckdb.connect() as db:
        db.register("item", pa.concat_tables([p.items for p in parts]))
        db.register("outbox", pa.concat_tables([p.outboxes for p in parts]))
        sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in ("items", *HISTOGRAM))
        keys = ", ".join(KEYS)
        items = db.sql(f"SELECT {keys}, {sums} FROM item GROUP BY {keys} ORDER BY {keys}")  # noqa: S608
        outboxes = db.sql(
            """SELECT outbox_id, any_value(bin_id) AS bin_id, sum(events)::BIGINT AS events, max(max_seq) AS max_seq,
                 max(dropped) AS dropped, min(first_received_utc_ms) AS first_received_utc_ms,
                 max(last_received_utc_ms) AS last_received_utc_ms
               FROM outbox GROUP BY outbox_id ORDER BY outbox_id"""
        )
        return Statistics(items.to_arrow_table(), outboxes.to_arrow_table())
