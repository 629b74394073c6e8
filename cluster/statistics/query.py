"""Queries to the statistics and the events. Every figure is a count; intervals are made above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from cluster.lake.schema import EVENTS, ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.read import read
from vision.errors import ConfigError, StorageError

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
# Columns that are made of the stored quarters of an hour.
_TIMES = {
    "hour_utc_ms": f"quarter_utc_ms // {_HOUR_MS} * {_HOUR_MS}",
    "day_utc_ms": f"quarter_utc_ms // {_DAY_MS} * {_DAY_MS}",
}
GROUPINGS = (
    "label",
    "stream",
    "decision",
    "bin_id",
    "quarter_utc_ms",
    *_TIMES,
    "model_digest",
    "rule_book",
)
MAX_GROUPINGS = 3


@dataclass(frozen=True, slots=True, eq=False)
class FleetCounts:
    """Item counts of the whole fleet, from one version of the statistics.

    Attributes:
        streams: stream, items.
        decisions: label, decision, items.
        hours: hour_utc_ms, stream, items.
    """

    streams: pa.Table
    decisions: pa.Table
    hours: pa.Table


def query(lake: Lake, by: Sequence[str]) -> pa.Table:
    """Return item counts by up to three columns: these columns, and `items`; ordered by them.

    Args:
        lake: whose statistics.
        by: names from GROUPINGS.

    Raises:
        ConfigError: an unknown name.
        StorageError: the lake cannot be read.
    """
    if not by or len(by) > MAX_GROUPINGS or set(by) - set(GROUPINGS):
        raise ConfigError(
            f"by: {', '.join(by) or 'nothing'}; name one to three of {', '.join(GROUPINGS)}"
        )
    columns = list(dict.fromkeys(by))
    return _count_items(lake, lake.files(ITEMS), columns)


def fleet_counts(lake: Lake) -> FleetCounts:
    """Return the counts of the overview.

    Raises:
        StorageError: the lake cannot be read.
    """
    files = lake.files(ITEMS)
    return FleetCounts(
        streams=_count_items(lake, files, ["stream"]),
        decisions=_count_items(lake, files, ["label", "decision"]),
        hours=_count_items(lake, files, ["hour_utc_ms", "stream"]),
    )


def counted_events(lake: Lake) -> int:
    """Return how many events the statistics hold.

    Raises:
        StorageError: the lake cannot be read.
    """
    files = lake.files(OUTBOXES)
    if not files:
        return 0
    with reading() as db:
        [(count,)] = (
            read(db, files, lake.storage.options).aggregate("sum(events)::BIGINT").fetchall()
        )
    return int(count)


def duplicates(lake: Lake) -> int:
    """Return how many events the lake holds more than once: 0, or the hub is broken.

    Reads the key of every event.
    """
    files = lake.files(EVENTS)
    if not files:
        return 0
    with duckdb.connect() as db:
        counts = read(db, files, lake.storage.options).aggregate(
            "count(*) - count(DISTINCT (outbox_id, seq))"
        )
        [(count,)] = counts.fetchall()
    return int(count)


def labels_in_order(lake: Lake) -> dict[str, list[str]]:
    """Return the labels of all events of each bin, in the order of the bin's own numbers.

    Reads the whole lake.
    """
    files = lake.files(EVENTS)
    if not files:
        return {}
    with duckdb.connect() as db:
        lists = "bin_id, list(label ORDER BY outbox_id, seq)"
        rows = read(db, files, lake.storage.options).aggregate(lists, "bin_id").fetchall()
    return dict(rows)


def _count_items(lake: Lake, files: Sequence[str], by: Sequence[str]) -> pa.Table:
    columns = ", ".join(by)
    if not files:
        return pa.table({name: [] for name in (*by, "items")})
    asked = ", ".join(f"{_TIMES.get(name, name)} AS {name}" for name in by)
    groups = ", ".join(_TIMES.get(name, name) for name in by)
    with reading() as db:
        source = read(db, files, lake.storage.options)
        counts = source.aggregate(f"{asked}, sum(items)::BIGINT AS items", groups)
        return counts.order(columns).to_arrow_table()


@contextmanager
def reading() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB for a question; files that it cannot read become a StorageError."""
    try:
        with duckdb.connect() as db:
            yield db
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise StorageError(
            f"the statistics cannot be read ({error}); count them again with "
            "'binsight hub aggregate --rebuild'"
        ) from error
