"""A copy of everything that cannot be computed again: events, ingest log, registry.

It may be taken while a hub runs. The log is copied first and the lake after it, so what the log
lost to the lake in between is in the lake, and a start brings the two together
(`cluster.ingest.move`). The statistics are not in it: they are counted again.

backup.json is written last, and by it a copy is known to be whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.ingest.ingest_log import copy_log
from cluster.ingest.move import LOG_NAME
from cluster.lake.copy import copy_table
from cluster.lake.durable import sync_all
from cluster.lake.schema import APPENDED, EVENTS
from cluster.lake.store import Lake
from cluster.registry.store import Registry
from vision.errors import ConfigError, StorageError
from vision.files import write_atomically

SCHEMA = "binsight.backup/1"
MANIFEST_NAME = "backup.json"
REGISTRY_NAME = "registry.sqlite"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds.

    Attributes:
        events: in the lake.
        waiting_events: in the ingest log; some may be in the lake as well, and are not taken twice.
        bins: in the registry; -1 for a PostgreSQL, which is not in it.
        taken_utc: when, ISO 8601.
        schema: of the copy.
    """

    events: int
    waiting_events: int
    bins: int
    taken_utc: str
    schema: str = SCHEMA


def backup(lake: Path, registry_url: str, to: Path) -> Backup:
    """Copy a hub's data into a new folder.

    Args:
        lake: folder of the lake.
        registry_url: of the registry; a PostgreSQL has tools of its own, and is left out.
        to: folder, not there or empty.

    Raises:
        ConfigError: `to` holds something, or `lake` is no lake.
        StorageError: something cannot be read or written; the copy is not whole.
    """
    _must_be_empty(to, "FOLDER")
    if not (lake / EVENTS).is_dir() and not (lake / LOG_NAME).exists():
        raise ConfigError(f"lake: {lake} holds no events and no log; is it the lake's folder?")
    try:
        to.mkdir(parents=True, exist_ok=True)
        waiting = copy_log(lake / LOG_NAME, to / LOG_NAME) if (lake / LOG_NAME).exists() else 0
        bins = -1
        if registry_url.startswith("sqlite"):
            bins = _copy_registry(registry_url, to / REGISTRY_NAME)
        for name in APPENDED:
            copy_table(lake / name, to / name)
        done = Backup(
            events=Lake(to).event_count() if (to / EVENTS).is_dir() else 0,
            waiting_events=waiting,
            bins=bins,
            taken_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        sync_all()
        write_atomically(to / MANIFEST_NAME, json.dumps(asdict(done), indent=1).encode())
    except OSError as error:
        raise StorageError(f"{to}: the copy is not whole ({error}); remove it") from error
    return done


def restore(source: Path, lake: Path, registry_url: str) -> Backup:
    """Put a copy in place of a lake that is not there.

    Args:
        source: folder of a copy.
        lake: folder, not there or empty.
        registry_url: of a registry that is not there; a PostgreSQL is left alone.

    Raises:
        ConfigError: `source` is no whole copy, or there is something in its place already.
        StorageError: it cannot be read or written; what is there is not whole.
    """
    try:
        document = json.loads((source / MANIFEST_NAME).read_bytes())
        if document["schema"] != SCHEMA:
            raise ConfigError(f"{source}: a copy of schema {document['schema']!r}")
        known = Backup(**document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{source}: no whole copy ({MANIFEST_NAME}: {error})") from error
    _must_be_empty(lake, "lake")
    registry = Path(registry_url.removeprefix("sqlite:///"))
    beside = [registry, *(registry.with_name(f"{registry.name}{end}") for end in ("-wal", "-shm"))]
    there = [path for path in beside if path.exists()]
    if registry_url.startswith("sqlite") and there:
        names = ", ".join(path.name for path in there)
        raise ConfigError(f"registry: {names} in {registry.parent} is there already; move it aside")
    try:
        shutil.copytree(
            source, lake, dirs_exist_ok=True, ignore=lambda *_: {MANIFEST_NAME, REGISTRY_NAME}
        )
        if registry_url.startswith("sqlite") and (source / REGISTRY_NAME).exists():
            registry.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / REGISTRY_NAME, registry)
        sync_all()
    except (OSError, shutil.Error) as error:
        raise StorageError(f"{lake}: what is there is not whole ({error}); remove it") from error
    events = Lake(lake).event_count() if known.events else 0
    if events != known.events:
        raise StorageError(f"{lake}: {events} events, {known.events} in the copy; remove it")
    return known


def _copy_registry(url: str, to: Path) -> int:
    """Copy a registry if there is one, as it is, and return how many bins it has."""
    if not Path(url.removeprefix("sqlite:///")).exists():
        return 0
    registry = Registry(url, upgrade=False)
    try:
        return registry.copy_to(to)
    finally:
        registry.close()


def _must_be_empty(folder: Path, key: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{key}: {folder} holds something already; name an empty folder")
