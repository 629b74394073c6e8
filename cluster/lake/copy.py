"""Copies a Delta table while somebody writes it: its files never change, and its log only grows."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.lake.store import Lake
from vision.errors import StorageError

# Log entries that a checkpoint has replaced may go while they are copied.
_TRIES = 3


def copy_table(source: Path, to: Path) -> None:
    """Copy the newest version of a table; nothing where there is no table.

    Args:
        source: folder of the table.
        to: folder that is made.

    Raises:
        OSError: a file cannot be read or written.
        StorageError: the copy cannot be read.
    """
    if not (source / "_delta_log").is_dir():
        return
    files: list[str] = []
    for tries_left in reversed(range(_TRIES)):
        shutil.rmtree(to, ignore_errors=True)
        try:
            _copy_log(source / "_delta_log", to / "_delta_log")
            files = Lake(to.parent).files(to.name)
        except (FileNotFoundError, StorageError) as error:
            if tries_left:
                continue
            raise StorageError(f"{to}: the copied table cannot be read ({error})") from error
        break
    for file in files:
        relative = Path(file).relative_to(to.resolve())
        (to / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / relative, to / relative)


def _copy_log(source: Path, to: Path) -> None:
    to.mkdir(parents=True)
    # In the order of their versions: what is missing at the end is a newer version.
    for path in sorted(source.iterdir()):
        if path.name.endswith((".json", ".parquet")) and not path.name.startswith("."):
            shutil.copy2(path, to / path.name)
    if (source / "_last_checkpoint").exists():
        shutil.copy2(source / "_last_checkpoint", to / "_last_checkpoint")
