"""fsync of what a Delta commit wrote.

deltalake does not fsync on a local disk: a simulated power cut lost every acknowledged commit. This
file knows the layout of a Delta table on disk, and not deltalake itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq


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
    folders = {table.parent, table}
    for path in data:
        folders |= {folder for folder in path.parents if table in folder.parents}
    for path in (*data, *sorted(folders), *(p for p in written if p not in data), log, log.parent):
        _sync(path)


def drop_torn_commits(table: Path, log_id: str, forgotten: int) -> list[int]:
    """Remove the newest commits, down to the last version whose files are all there.

    A power cut may keep the entry of a commit that nobody has synced, and not its files: then the
    whole table cannot be read. The events of such a commit are in the ingest log still, and a
    compaction has none of its own. Commits that a checkpoint holds were synced before it.

    Args:
        table: folder of the Delta table; it may not be there.
        log_id: of the ingest log.
        forgotten: number of the last entry that the log holds no more.

    Returns:
        The versions that were removed.

    Raises:
        OSError: the disk does not take it; or files of a commit are missing that the log has
            forgotten, and nothing is removed.
    """
    log = table / "_delta_log"
    checkpointed = _newest_checkpoint(log)
    entries = sorted(path for path in log.glob("*.json") if int(path.stem) > checkpointed)
    commits = [_actions(path) for path in entries]
    kept = next(k for k in range(len(commits), -1, -1) if _is_whole(table, commits[:k]))
    for path, actions in zip(entries[kept:], commits[kept:], strict=True):
        if actions is not None and not _comes_again(actions, log_id, forgotten):
            raise OSError(
                f"{path}: files of this commit are missing, and the ingest log holds its events no "
                "more; put a backup in its place"
            )
    for path in reversed(entries[kept:]):
        path.rename(path.with_suffix(".torn"))  # for a person to look at
        _sync(log)
    return [int(path.stem) for path in entries[kept:]]


Actions = list[dict[str, Any]]


def _newest_checkpoint(log: Path) -> int:
    """Return the version of the newest checkpoint, -1 without one; a torn one is set aside.

    The entries that a checkpoint replaces go only when it is synced, so they are there still.
    """
    for path in sorted(log.glob("*.checkpoint*.parquet"), reverse=True):
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError):
            path.rename(path.with_suffix(".torn"))
            (log / "_last_checkpoint").unlink(missing_ok=True)
            _sync(log)
        else:
            return int(path.name[:20])
    return -1


def _actions(entry: Path) -> Actions | None:
    """Return the actions of a log entry; None for one that is cut short."""
    try:
        return [json.loads(line) for line in entry.read_text().splitlines()] or None
    except (ValueError, UnicodeDecodeError):
        return None


def _is_whole(table: Path, commits: Sequence[Actions | None]) -> bool:
    """Return whether the version after some commits can be read: what they added is there."""
    live: dict[str, int] = {}
    for actions in commits:
        if actions is None:
            return False
        for action in actions:
            if "add" in action:
                live[action["add"]["path"]] = action["add"]["size"]
            elif "remove" in action:  # by a compaction; the file may be gone
                live.pop(action["remove"]["path"], None)
    paths = [(table / unquote(path), size) for path, size in live.items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _comes_again(actions: Actions, log_id: str, forgotten: int) -> bool:
    """Return whether nothing is lost with a commit."""
    moved = [action["txn"] for action in actions if "txn" in action]
    if any(txn["appId"] == log_id and txn["version"] > forgotten for txn in moved):
        return True
    return not any(action["add"].get("dataChange", True) for action in actions if "add" in action)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all() -> None:
    """Sync every file system: for commits that an earlier process may have left unsynced."""
    os.sync()
