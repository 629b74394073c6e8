"""The way into a lake without a server, and what has arrived there."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from cluster.ingest.commit import Ingest, Limits
from cluster.lake.store import Lake

NOW = 1_790_000_000_000


@contextmanager
def open_ingest(lake: Lake, lake_interval_s: float = 0) -> Iterator[Ingest]:
    """Open the ingest of a lake; by default each group is moved at once."""
    ingest = Ingest(lake, lambda: NOW, Limits(commit_interval_s=0, lake_interval_s=lake_interval_s))
    try:
        yield ingest
    finally:
        ingest.close()


def numbers(lake: Lake, outbox: str = "o1") -> list[int]:
    """Return the event numbers of an outbox that the lake holds, in order."""
    rows = duckdb.execute(
        "SELECT seq FROM read_parquet(?) WHERE outbox_id = ? ORDER BY seq",
        [lake.files("events"), outbox],
    )
    return [row[0] for row in rows.fetchall()]
