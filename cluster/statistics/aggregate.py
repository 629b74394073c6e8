"""Events to statistics: one DuckDB kernel for a part of the lake.

`aggregate_files` runs in this process or as a Ray task; it makes no difference. What it gives are
counts and extremes, which queries add up over the parts, so the order in which parts arrive does
not matter, nor how late.
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

    Rows are in the order of their keys. The hour is that of `cluster.ingest.event_time`; in a lake
    of an earlier version, that of the bin's clock where it was set, else that of the arrival.
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
        events = db.read_parquet(list(files), hive_partitioning=False, union_by_name=True)
        when = "CASE WHEN clock_synced THEN wall_utc_ms ELSE received_utc_ms END"
        if "event_utc_ms" in events.columns:
            when = f"coalesce(event_utc_ms, {when})"
        hour = f"({when}) // {_HOUR_MS} * {_HOUR_MS}"
        keys = ", ".join(f"{hour} AS {key}" if key == "hour_utc_ms" else key for key in KEYS)
        groups = ", ".join(hour if key == "hour_utc_ms" else key for key in KEYS)
        items = events.aggregate(f"{keys}, count(*) AS items, {histogram}", groups)
        items = items.order(", ".join(KEYS))
        outboxes = events.aggregate(
            "outbox_id, any_value(bin_id) AS bin_id, count(*) AS events, max(seq) AS max_seq, "
            "max(outbox_dropped) AS dropped, min(received_utc_ms) AS first_received_utc_ms, "
            "max(received_utc_ms) AS last_received_utc_ms",
            "outbox_id",
        ).order("outbox_id")
        return Statistics(items.to_arrow_table(), outboxes.to_arrow_table())
