"""Aggregates of parts of the lake, kept so that only parts with new files are counted again.

A file of the lake never changes, so the names of a part's files say what is in it. What is kept
here can be deleted at any time: it is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.statistics.aggregate import Statistics
from vision.files import write_atomically

# To be raised when `aggregate_files` gives other figures for the same files.
KERNEL_VERSION = 1

log = logging.getLogger(__name__)


class KeptParts:
    """Aggregates on disk, one for each part of the lake.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, part: str, files: Sequence[str]) -> Statistics | None:
        """Return the aggregate of a part, or None if it has to be computed.

        Args:
            part: name of the part: its arrival date.
            files: that it holds now.
        """
        path = self._path(part, files)
        tables = []
        for name in ("items", "outboxes"):
            file = path.with_suffix(f".{name}.parquet")
            if not file.is_file():
                return None
            try:
                tables.append(pq.read_table(file, partitioning=None))
            except (pa.ArrowException, OSError) as error:
                log.warning("statistics: %s is damaged and is computed again (%s)", file, error)
                return None
        return Statistics(*tables)

    def put(self, part: str, files: Sequence[str], statistics: Statistics) -> None:
        """Keep the aggregate of a part, and remove the earlier ones."""
        path = self._path(part, files)
        for name, table in (("items", statistics.items), ("outboxes", statistics.outboxes)):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            write_atomically(path.with_suffix(f".{name}.parquet"), bytes(sink.getvalue()))
        for earlier in path.parent.glob("*.parquet"):
            if not earlier.name.startswith(path.name):
                earlier.unlink(missing_ok=True)

    def _path(self, part: str, files: Sequence[str]) -> Path:
        names = json.dumps([KERNEL_VERSION, *sorted(Path(file).name for file in files)])
        return self._folder / part / hashlib.sha256(names.encode()).hexdigest()[:32]
