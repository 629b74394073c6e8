"""Aggregation of a fleet's events.

The kernel in this process against the kernel as Ray tasks; and what 1 % of new events costs in a
lake that has been counted before, against counting all of it again.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lake.schema import EVENT_SCHEMA
from cluster.lake.store import Lake
from cluster.statistics.aggregate import aggregate_files
from cluster.statistics.distributed import aggregate_with_ray
from cluster.statistics.refresh import refresh

DAYS = 6
EVENTS_PER_DAY = 500_000
BINS = 1000
LAKE_DAYS = 14
LAKE_EVENTS_PER_DAY = EVENTS_PER_DAY
LABELS = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


def measure() -> Iterator[dict[str, Any]]:
    """Yield local and Ray times for the same 3 million synthetic events; Ray's start is counted."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [[_write_day(Path(folder), day)] for day in range(DAYS)]
        started = time.perf_counter()
        local = [aggregate_files(files) for files in parts]
        local_s = time.perf_counter() - started
        started = time.perf_counter()
        distributed = aggregate_with_ray(parts)
        ray_s = time.perf_counter() - started
    yield {
        "events": DAYS * EVENTS_PER_DAY,
        "rows": sum(part.items.num_rows for part in local),
        "equal": all(
            here.items.equals(there.items) and here.outboxes.equals(there.outboxes)
            for here, there in zip(local, distributed, strict=True)
        ),
        "local_s": round(local_s, 2),
        "ray_s": round(ray_s, 2),
        "ray_to_local": round(ray_s / local_s, 2),
    }
    yield _incremental()


def _incremental() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        for day in range(LAKE_DAYS):
            lake.append(_day(day, LAKE_EVENTS_PER_DAY), "log", day + 1)
        whole = refresh(lake, "local")
        new = LAKE_DAYS * LAKE_EVENTS_PER_DAY // 100
        lake.append(_day(LAKE_DAYS - 1, new), "log", LAKE_DAYS + 1)
        after = refresh(lake, "local")
        rebuilt = refresh(lake, "local", rebuild=True)
    assert after.events == rebuilt.events == whole.events + new
    return {
        "events": whole.events,
        "new_events": new,
        "rebuild_s": round(rebuilt.seconds, 2),
        "incremental_s": round(after.seconds, 2),
        "incremental_to_rebuild": round(after.seconds / rebuilt.seconds, 3),
    }


def _write_day(folder: Path, day: int) -> str:
    path = folder / f"day{day}.parquet"
    pq.write_table(_day(day, EVENTS_PER_DAY), path)
    return str(path)


def _day(day: int, events: int) -> pa.Table:
    """Return the events of a day, in random order of bins and labels."""
    rng = np.random.default_rng(day)
    n = events
    date = (np.datetime64("2026-09-01") + day).astype(str)
    bins = rng.integers(BINS, size=n)
    columns: dict[str, Any] = {}
    for field in EVENT_SCHEMA:
        columns[field.name] = (
            pa.array(np.zeros(n, int)).cast(field.type)
            if field.type != pa.string()
            else pa.array([""] * n)
        )
    labels = np.array(LABELS)[rng.integers(len(LABELS), size=n)]
    columns |= {
        "outbox_id": pa.array([f"o{b}" for b in bins]),
        "bin_id": pa.array([f"bin-{b}" for b in bins]),
        "seq": pa.array(np.arange(n) + 1 + day * n),
        "received_utc_ms": pa.array(
            1_790_000_000_000 + day * 86_400_000 + np.sort(rng.integers(86_400_000, size=n))
        ),
        "confidence": pa.array(rng.random(n)),
        "label": pa.array(labels),
        "stream": pa.array(labels),
        "decision": pa.array(["known"] * n),
        "arrival_date": pa.array([date] * n),
    }
    columns["event_utc_ms"] = columns["received_utc_ms"]
    return pa.table(columns, schema=EVENT_SCHEMA)
