"""Questions to the statistics. Every figure is a count with a method; shares carry an interval."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import duckdb

from cluster.lake import Lake
from vision.errors import ConfigError

GROUPINGS = ("label", "stream", "decision", "bin_id", "hour_utc_ms", "model_digest", "rule_book")
ITEMS = "statistics_items"
OUTBOXES = "statistics_outboxes"
# A folder called label=1 above the lake is no column.
_FILES = "read_parquet(?, hive_partitioning = false)"
# 95 %, two-sided normal quantile.
_Z = 1.959964


def query(lake: Lake, by: Sequence[str]) -> list[dict[str, Any]]:
    """Return item counts by up to three columns, with each row's share of all and its 95 % Wilson interval.

    The interval speaks of chance alone: what the share could be had other people come by. Errors of
    the classifier
    are not in it.

    Args:
        lake: whose statistics.
        by: names from GROUPINGS.

    Raises:
        ConfigError: an unknown name.
        StorageError: the lake cannot be read.
    """
    if not by or len(by) > 3 or set(by) - set(GROUPINGS):
        raise ConfigError(
            f"by: {', '.join(by) or 'nothing'}; name one to three of {', '.join(GROUPINGS)}"
        )
    columns = ", ".join(by)  # names from GROUPINGS, no text from outside
    sql = f"SELECT {columns}, sum(items)::BIGINT AS items FROM source GROUP BY {columns} ORDER BY {columns}"  # noqa: S608
    rows = _rows(lake, ITEMS, sql)
    total = sum(row["items"] for row in rows)
    for row in rows:
        low, high = wilson(row["items"], total)
        row.update(share=row["items"] / total, share_low=low, share_high=high)
    return rows


def bins(lake: Lake) -> list[dict[str, Any]]:
    """Return one row for each outbox: events here, greatest number, and how many are missing below it.

    Numbers begin at 1 and rise by 1 in the life of an outbox, so max_seq - events is exactly what
    never arrived (dropped by a full outbox, or set aside by the bin).
    """
    return _rows(
        lake,
        OUTBOXES,
        "SELECT bin_id, outbox_id, events, max_seq, max_seq - events AS missing, dropped, "
        "first_received_utc_ms, "
        "last_received_utc_ms FROM source ORDER BY bin_id, outbox_id",
    )


def duplicates(lake: Lake) -> int:
    """Return how many events the lake holds more than once: 0, or the hub is broken. Reads every event's key."""
    files = lake.files("events")
    if not files:
        return 0
    with duckdb.connect() as db:
        sql = f"SELECT count(*) - count(DISTINCT (outbox_id, seq)) FROM {_FILES}"  # noqa: S608
        row = db.execute(sql, [files]).fetchone()
    return int(row[0]) if row else 0


def labels_in_order(lake: Lake) -> dict[str, list[str]]:
    """Return the label of every event of each bin, in the order of the bin's own numbers. Reads the whole lake."""
    files = lake.files("events")
    if not files:
        return {}
    with duckdb.connect() as db:
        sql = f"SELECT bin_id, list(label ORDER BY outbox_id, seq) FROM {_FILES} GROUP BY bin_id"  # noqa: S608
        rows = db.execute(sql, [files]).fetchall()
    return dict(rows)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as CSV with a header; empty text for no rows.

    It begins with a byte-order mark, by which spreadsheets know UTF-8, and no text in it is a
    formula to them: what begins like one gets an apostrophe in front. Source: OWASP, "CSV
    Injection".
    """
    if not rows:
        return ""
    text = io.StringIO("\ufeff")
    text.seek(1)
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Spreadsheets see through wide signs (＝) and skip what has no width.
    seen = "".join(
        c
        for c in unicodedata.normalize("NFKC", value)
        if unicodedata.category(c) not in ("Cf", "Cc", "Zs")
    )
    return f"'{value}" if seen.startswith(("=", "+", "-", "@")) else value


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share; (0, 1) if nothing was counted.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22,
    1927.
    """
    if not total:
        return 0.0, 1.0
    share = count / total
    spread = _Z * _Z / total
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _rows(lake: Lake, table: str, sql: str) -> list[dict[str, Any]]:
    files = lake.files(table)
    if not files:
        return []
    with duckdb.connect() as db:
        db.read_parquet(files, hive_partitioning=False).create_view("source")
        result = db.execute(sql)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
