"""The statistics tables from all events of the lake, counting only what is new."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cluster.lake.schema import ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.aggregate import Statistics, aggregate_files, merge
from cluster.statistics.kept_parts import KeptParts
from vision.errors import StorageError

# In the lake's folder.
KEPT_PARTS = "statistics_parts"


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What one aggregation did.

    Attributes:
        events: in the statistics.
        parts: arrival dates of the lake.
        computed: of them, those that had changed.
        rows: of the statistics of items.
        seconds: it took.
        engine: "ray" or "local"; "none" if nothing had changed.
    """

    events: int
    parts: int
    computed: int
    rows: int
    seconds: float
    engine: str


def refresh(
    lake: Lake, engine: str, ray_address: str | None = None, rebuild: bool = False
) -> Aggregated:
    """Replace the statistics tables by those of all events in the lake.

    Parts of the lake without new files are taken from what an earlier run kept; the result is the
    same.

    Args:
        lake: whose events.
        engine: "ray", one task for each arrival date; or "local", the same kernel in this process.
        ray_address: of a running cluster; None starts a local one.
        rebuild: count all parts again.

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
    kept_parts = KeptParts(lake.folder / KEPT_PARTS)
    found: dict[str, Statistics] = {}
    for part, files in groups.items():
        kept = None if rebuild else kept_parts.get(part, files)
        if kept is not None:
            found[part] = kept
    changed = [part for part in groups if part not in found]
    if changed and engine == "ray":
        from cluster.statistics.distributed import aggregate_with_ray  # noqa: PLC0415  ray is slow

        computed = aggregate_with_ray([groups[part] for part in changed], ray_address)
    else:
        computed = [aggregate_files(groups[part]) for part in changed]
    for part, statistics in zip(changed, computed, strict=True):
        kept_parts.put(part, groups[part], statistics)
        found[part] = statistics
    result = merge([found[part] for part in groups])
    events = sum(result.items.column("items").to_pylist())
    lake.replace_statistics(ITEMS, result.items, events)
    lake.replace_statistics(OUTBOXES, result.outboxes, events)
    return Aggregated(
        events,
        len(groups),
        len(changed),
        result.items.num_rows,
        time.perf_counter() - started,
        engine if changed else "none",
    )
