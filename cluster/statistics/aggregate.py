"""Events to statistics: one DuckDB kernel for a part of the lake.

`aggregate_files` runs in this process or as a Ray task; it makes no difference. What it gives are
counts, whole sums and extremes, which queries add up over the parts, so the order in which parts
arrive does not matter, nor how late.

Time is in quarters of an hour: India is at +5:30 and Nepal at +5:45, and a district's own hours and
days are made of quarters alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import duckdb
import pyarrow as pa

from cluster.statistics.read import read
from vision.errors import StorageError

CONFIDENCE_BINS = 10
KEYS = ("bin_id", "quarter_utc_ms", "model_digest", "rule_book", "label", "decision", "stream")
CONFIDENCES = tuple(f"confidence_{k}" for k in range(CONFIDENCE_BINS))
# Time from the frame to the lid command: under 1 ms, then from each power of two to the next; the
# last has no end.
LATENCY_BINS = 16
LATENCIES = tuple(f"latency_{k}" for k in range(LATENCY_BINS))
ENERGY = "energy_uj"
# What rows with equal keys add up in.
SUMS = ("items", ENERGY, *CONFIDENCES, *LATENCIES)
# A megajoule: more than any board takes for an item.
MOST_ENERGY_MJ = 1_000_000_000
QUARTER_MS = 900_000
_TIME_KEY = "quarter_utc_ms"


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Aggregates of some events.

    Attributes:
        items: KEYS, `items` (count), `energy_uj` (sum, microjoules), CONFIDENCES (counts of
            confidence in tenths), LATENCIES (counts of time from frame to lid).
        outboxes: outbox_id, bin_id, `events`, `max_seq`, `dropped`, `first_received_utc_ms`,
            `last_received_utc_ms`.
    """

    items: pa.Table
    outboxes: pa.Table


def aggregate_files(
    files: Sequence[str], options: Mapping[str, str] = MappingProxyType({})
) -> Statistics:
    """Aggregate the events of some Parquet files.

    Rows are in the order of their keys. The time is that of `cluster.ingest.event_time`; in a lake
    of an earlier version, that of the bin's clock where it was set, else that of the arrival.

    Args:
        files: paths, or URIs of S3.
        options: of their storage.

    Raises:
        StorageError: a file cannot be read.
    """
    try:
        with duckdb.connect() as db:
            return _aggregated(db, files, options)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise StorageError(f"events cannot be counted ({error})") from error


def _aggregated(
    db: duckdb.DuckDBPyConnection, files: Sequence[str], options: Mapping[str, str]
) -> Statistics:
    db.execute("SET TimeZone = 'UTC'")
    events = read(db, files, options)
    when = "CASE WHEN clock_synced THEN wall_utc_ms ELSE received_utc_ms END"
    if "event_utc_ms" in events.columns:
        when = f"coalesce(event_utc_ms, {when})"
    quarter = f"({when}) // {QUARTER_MS} * {QUARTER_MS}"
    timed = {_TIME_KEY: quarter}
    keys = ", ".join(f"{timed.get(key, key)} AS {key}" for key in KEYS)
    groups = ", ".join(timed.get(key, key) for key in KEYS)
    sums = ", ".join(_sums(events.columns))
    items = events.aggregate(f"{keys}, {sums}", groups).order(", ".join(KEYS))
    outboxes = events.aggregate(
        "outbox_id, any_value(bin_id) AS bin_id, count(*) AS events, max(seq) AS max_seq, "
        "max(outbox_dropped) AS dropped, min(received_utc_ms) AS first_received_utc_ms, "
        "max(received_utc_ms) AS last_received_utc_ms",
        "outbox_id",
    ).order("outbox_id")
    return Statistics(items.to_arrow_table(), outboxes.to_arrow_table())


def _sums(columns: Sequence[str]) -> list[str]:
    """Return the SQL of SUMS; a lake of an earlier version has no energy."""
    # What no item can take is no measurement: it must not stop the counting of all others.
    sound = f"CASE WHEN energy_mj BETWEEN 0 AND {MOST_ENERGY_MJ} THEN energy_mj ELSE 0 END"
    energy = f"sum(CAST(round(1000 * ({sound})) AS BIGINT))::BIGINT"
    if "energy_mj" not in columns:
        energy = "0::BIGINT"
    tenth = f"least(floor(confidence * {CONFIDENCE_BINS}), {CONFIDENCE_BINS - 1})"
    confidences = [
        f"count(*) FILTER ({tenth} = {k}) AS {name}" for k, name in enumerate(CONFIDENCES)
    ]
    latencies = []
    for k, name in enumerate(LATENCIES):
        low = f"total_ms >= {2 ** (k - 1)}" if k else "true"
        high = f"total_ms < {2**k}" if k + 1 < LATENCY_BINS else "true"
        latencies.append(f"count(*) FILTER ({low} AND {high}) AS {name}")
    return ["count(*) AS items", f"{energy} AS {ENERGY}", *confidences, *latencies]
