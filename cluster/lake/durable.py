"""fsync of what a Delta commit wrote.

deltalake does not fsync on a local disk: a simulated power cut lost every acknowledged commit. This
file knows the layout of a Delta table on disk, and not deltalake itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import unquote


def sync_commit(table: Path, version: int) -> None:
    """Sync one commit: data files, log entry, and every folder up to the lake's own.

    Args:
        table: folder of the Delta table.
        version: of the commit.

    Raises:
        OSError: the disk did not take it; nothing may be acknowledged.
    """
    log = table / "_delta_log" / f"{version:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    written = [table / unquote(action["add"]["path"]) for action in actions if "add" in action]
    # Some commits also have a checkpoint: a lost one would make the whole table unreadable.
    written += [
        *log.parent.glob(f"{version:020}.checkpoint*.parquet"),
        *log.parent.glob("_last_checkpoint"),
    ]
    folders = {table.parent, table, log.parent, *(path.parent for path in written)}
    for path in (*written, log, *folders):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_all() -> None:
    """Sync every file system: for commits that an earlier process may have left unsynced."""
    os.sync()
