"""Replace files whole: a power cut leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace a file durably: a power cut leaves the old file or the new one, never a part.

    Args:
        path: the file; its folder is made.
        data: all of it.
        mode: of a secret, 0o600; what the process masks is taken away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # left by a power cut, perhaps with another mode
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:  # noqa: PTH123  of a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_unsynced(path: Path, data: bytes) -> None:
    """Replace a file whole, without waiting for the disk.

    It is for a figure that is old within seconds and not worth the wear of a flash disk. After a
    power cut the file may be the old one, or empty.
    """
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
