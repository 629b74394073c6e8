"""`kill -9` of the aggregation at random instants, while events come: are its figures still true?

KILLS times some events go into a lake and `binsight hub aggregate` is started and killed, now and
then left alone to its end. At the end one more aggregation runs. Its figures are compared, label by
label, with a plain count of the events.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.bench_ingest import _events
from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.ingest.commit import Ingest, Limits
from cluster.lake.store import Lake
from cluster.statistics.query import query
from vision.events import Batch

KILLS = int(os.environ.get("BINSIGHT_KILLS", "50"))
EVENTS = 3_000
DAY_MS = 86_400_000
NOW_UTC_MS = 1_790_000_000_000


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder) / "lake"
        command = [sys.executable, "-m", "binsight", "hub", "aggregate", "--engine", "local"]
        command.append(f"--set=lake={path}")
        _add_events(path, 0)
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lasts_s = time.perf_counter() - started
        in_the_work = ended = 0
        for number in range(1, KILLS + 1):
            _add_events(path, number)
            before = _versions(path)
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            # Most of the time is the start of the program: aim at what comes after it.
            time.sleep(rng.uniform(0.5, 1.2) * lasts_s)
            ended += process.poll() is not None
            process.kill()
            process.wait()
            # One of the two tables was written, or neither.
            in_the_work += len(set(_versions(path)) - set(before)) == 1
        aggregate(HubConfig(lake=path), "local")
        lake = Lake(path)
        counted = {row["label"]: row["items"] for row in query(lake, ["label"]).to_pylist()}
        with duckdb.connect() as db:
            events = db.read_parquet(lake.files("events"), hive_partitioning=False)
            true = dict(events.aggregate("label, count(*)", "label").fetchall())
    yield {
        "kills": KILLS - ended,
        "ended_before_the_kill": ended,
        "killed_between_the_two_tables": in_the_work,
        "events": sum(true.values()),
        "labels_counted_wrong": sum(counted.get(label) != n for label, n in true.items()),
        "equal": counted == true,
    }


def _add_events(path: Path, number: int) -> None:
    """Add events of an arrival date; a date gets some several times."""
    clock = NOW_UTC_MS + number % 7 * DAY_MS
    ingest = Ingest(Lake(path), lambda: clock, Limits(lake_interval_s=0))
    try:
        ingest.commit([Batch(f"o{number}", f"bin-{number % 5}", 0, _events(EVENTS, number))])
    finally:
        ingest.close()


def _versions(path: Path) -> list[tuple[str, int]]:
    names = ("statistics_items", "statistics_outboxes")
    return [(name, len(list((path / name / "_delta_log").glob("*.json")))) for name in names]
