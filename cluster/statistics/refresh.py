"""The statistics tables from all events of the lake, counting only what is new.

A statistics table has a part for each arrival date of the lake. A file of the lake never changes,
so the names of a date's files say whether its part is still right.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.lake.schema import ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.aggregate import aggregate_files
from cluster.statistics.query import counted_events
from vision.errors import StorageError

# To be raised when `aggregate_files` gives other figures for the same files.
KERNEL_VERSION = 2


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What one aggregation did.

    Attributes:
        events: in the statistics.
        parts: arrival dates of the lake.
        computed: of them, those that were counted now.
        seconds: it took.
        engine: "ray" or "local"; "none" if nothing had changed.
    """

    events: int
    parts: int
    computed: int
    seconds: float
    engine: str


def refresh(
    lake: Lake, engine: str, ray_address: str | None = None, rebuild: bool = False
) -> Aggregated:
    """Bring the statistics tables up to date with the events in the lake.

    Only arrival dates whose files have changed are counted; the result is that of a rebuild.

    Args:
        lake: whose events.
        engine: "ray", one task for each arrival date; or "local", the same kernel in this process.
        ray_address: of a running cluster; None starts a local one.
        rebuild: count all dates again.

    Raises:
        StorageError: there is no event, or the lake cannot be read or written.
    """
    started = time.perf_counter()
    groups = lake.files_by_arrival()
    if not groups:
        raise StorageError(
            f"{lake.folder}: no event in the lake yet; start 'binsight hub serve' and point a bin "
            "at it"
        )
    wanted = {date: _part(files) for date, files in groups.items()}
    # The two tables are two commits: a kill may have come between them.
    tables = [lake.parts(name) for name in (ITEMS, OUTBOXES)]
    rebuild = rebuild or any(table.keys() - wanted.keys() for table in tables)
    changed = [
        date
        for date, part in wanted.items()
        if rebuild or any(table.get(date) != part for table in tables)
    ]
    if changed and engine == "ray":
        from cluster.statistics.distributed import aggregate_with_ray  # noqa: PLC0415  ray is slow

        parts = [groups[date] for date in changed]
        computed = aggregate_with_ray(parts, ray_address, lake.storage.options)
    else:
        computed = [aggregate_files(groups[date], lake.storage.options) for date in changed]
    if changed:
        whole = None if len(changed) == len(wanted) else changed
        marks = [(date, wanted[date]) for date in changed]
        items = [_marked(c.items, *mark) for c, mark in zip(computed, marks, strict=True)]
        outboxes = [_marked(c.outboxes, *mark) for c, mark in zip(computed, marks, strict=True)]
        lake.replace_parts(ITEMS, pa.concat_tables(items), whole)
        lake.replace_parts(OUTBOXES, pa.concat_tables(outboxes), whole)
    return Aggregated(
        counted_events(lake),
        len(groups),
        len(changed),
        time.perf_counter() - started,
        engine if changed else "none",
    )


def _part(files: Sequence[str]) -> str:
    names = json.dumps([KERNEL_VERSION, *sorted(Path(file).name for file in files)])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _marked(rows: pa.Table, date: str, part: str) -> pa.Table:
    texts = pa.array([date] * rows.num_rows, pa.string())
    rows = rows.append_column("arrival_date", texts)
    return rows.append_column("part", pa.array([part] * rows.num_rows, pa.string()))
