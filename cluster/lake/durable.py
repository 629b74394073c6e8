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
    data = [path for path in written if path.parent != log.parent]
    # What the log entry names is there before the entry is.
    folders = {table.parent, table, *(path.parent for path in data)}
    for path in (*data, *sorted(folders), *(p for p in written if p not in data), log, log.parent):
        _sync(path)


def drop_torn_commits(table: Path) -> list[int]:
    """Remove the newest commits from the first on whose files are not all there, and return them.

    A power cut may keep the entry of a commit that nobody has synced, and not its files: then the
    whole table cannot be read. Nothing of such a commit was acknowledged as moved, so its events
    are in the ingest log. Commits that a checkpoint holds were synced before it.

    Args:
        table: folder of the Delta table; it may not be there.

    Raises:
        OSError: the disk does not take it.
    """
    log = table / "_delta_log"
    checkpointed = max(
        (int(path.name[:20]) for path in log.glob("*.checkpoint*.parquet")), default=-1
    )
    entries = sorted(path for path in log.glob("*.json") if int(path.stem) > checkpointed)
    torn = next((i for i, path in enumerate(entries) if not _is_whole(table, path)), len(entries))
    for path in reversed(entries[torn:]):
        path.unlink()
        _sync(log)
    return [int(path.stem) for path in entries[torn:]]


def _is_whole(table: Path, entry: Path) -> bool:
    try:
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
    except (ValueError, UnicodeDecodeError):
        return False
    added = [action["add"] for action in actions if "add" in action]
    paths = [(table / unquote(add["path"]), add["size"]) for add in added]
    return bool(actions) and all(
        path.is_file() and path.stat().st_size == size for path, size in paths
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all() -> None:
    """Sync every file system: for commits that an earlier process may have left unsynced."""
    os.sync()
