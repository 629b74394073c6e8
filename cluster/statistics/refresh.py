"""The statistics tables from all events of the lake, counting only what is new.

A statistics table has parts of each arrival date of the lake, and each part was counted from some
files. A file of the lake never changes, so a part is right as long as its files are there: only the
files of no such part are counted. A date of many parts is counted as one again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.lake.schema import ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.aggregate import aggregate_files
from cluster.statistics.query import counted_events, reading
from cluster.statistics.read import read
from vision.errors import StorageError

# To be raised when `aggregate_files` gives other figures for the same files.
KERNEL_VERSION = 3
# A date of so many parts is counted as one when there is something new.
MOST_PARTS = 8
# Of the outboxes' table: the names of the files that a part was counted from, in one of its rows.
_FILES = "part_files"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done to be up to date.

    Attributes:
        counted: files to be counted, by arrival date.
        gone: parts that are no longer right.
        whole: whether no part of before stays.
    """

    counted: Mapping[str, Sequence[str]]
    gone: Sequence[tuple[str, str]]
    whole: bool


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What one aggregation did.

    Attributes:
        events: in the statistics.
        parts: arrival dates of the lake.
        computed: of them, those of which anything was counted now.
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

    Only files that are new are counted; the sums are those of a rebuild.

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
    plan = _plan(groups, {} if rebuild else _right_parts(lake, groups), lake)
    if plan.gone and not plan.counted:  # files were taken away, and none has come
        plan = _plan(groups, {}, lake)
    parts = list(plan.counted.values())
    if parts and engine == "ray":
        from cluster.statistics.distributed import aggregate_with_ray  # noqa: PLC0415  ray is slow

        computed = aggregate_with_ray(parts, ray_address, lake.storage.options)
    else:
        computed = [aggregate_files(files, lake.storage.options) for files in parts]
    if parts:
        marks = [(date, _part(files), _names(files)) for date, files in plan.counted.items()]
        items = [_marked(c.items, *mark[:2]) for c, mark in zip(computed, marks, strict=True)]
        outboxes = [_marked(c.outboxes, *mark) for c, mark in zip(computed, marks, strict=True)]
        replaced = [*plan.gone, *((date, part) for date, part, _ in marks)]
        lake.replace_parts(ITEMS, pa.concat_tables(items), None if plan.whole else replaced)
        lake.replace_parts(OUTBOXES, pa.concat_tables(outboxes), None if plan.whole else replaced)
    return Aggregated(
        counted_events(lake),
        len(groups),
        len(parts),
        time.perf_counter() - started,
        engine if parts else "none",
    )


Parts = Mapping[str, Mapping[str, frozenset[str]]]


def _right_parts(lake: Lake, groups: Mapping[str, Sequence[str]]) -> Parts:
    """Return the parts that both tables hold and whose files are all there: date, part, files.

    The two tables are two commits: a kill may have come between them.
    """
    files = lake.files(OUTBOXES)
    if not files:
        return {}
    with reading() as db:
        outboxes = read(db, files, lake.storage.options)
        if _FILES not in outboxes.columns:  # counted by an earlier version
            return {}
        rows = outboxes.filter(f"{_FILES} IS NOT NULL").project(_FILES).fetchall()
    named = {_part(text.split("\n")): frozenset(text.split("\n")) for (text,) in rows}
    right: dict[str, dict[str, frozenset[str]]] = {}
    for date, part in lake.parts(ITEMS) & lake.parts(OUTBOXES):
        there = {Path(file).name for file in groups.get(date, ())}
        if part in named and named[part] <= there:
            right.setdefault(date, {})[part] = named[part]
    return right


def _plan(groups: Mapping[str, Sequence[str]], right: Parts, lake: Lake) -> _Plan:
    counted: dict[str, Sequence[str]] = {}
    kept: set[tuple[str, str]] = set()
    for date, files in groups.items():
        parts = right.get(date, {})
        known = frozenset().union(*parts.values())
        new = [file for file in files if Path(file).name not in known]
        if new and len(parts) >= MOST_PARTS:
            counted[date] = files
            continue
        kept |= {(date, part) for part in parts}
        if new:
            counted[date] = new
    gone = (lake.parts(ITEMS) | lake.parts(OUTBOXES)) - kept
    return _Plan(counted, sorted(gone), whole=not kept)


def _part(files: Sequence[str]) -> str:
    names = json.dumps([KERNEL_VERSION, *sorted(Path(file).name for file in files)])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _names(files: Sequence[str]) -> str:
    return "\n".join(sorted(Path(file).name for file in files))


def _marked(rows: pa.Table, date: str, part: str, names: str | None = None) -> pa.Table:
    if names is not None:
        first = pa.array([names, *[None] * (rows.num_rows - 1)], pa.string())
        rows = rows.append_column(_FILES, first)
    rows = rows.append_column("arrival_date", pa.repeat(date, rows.num_rows))
    return rows.append_column("part", pa.repeat(part, rows.num_rows))
