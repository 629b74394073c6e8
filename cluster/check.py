"""Everything that an operator must know of a hub, on one screen. Nothing is changed.

A running hub is asked at its own address; what lies on the disk is looked at beside it.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.config import HubConfig
from cluster.ingest.ingest_log import last_notes, look_into_log
from cluster.ingest.move import LOG_NAME
from cluster.lake.factory import open_lake
from cluster.lake.schema import EVENTS
from cluster.lake.store import COMPACT_EVERY_COMMITS
from cluster.registry.model import Scope
from cluster.registry.store import Registry
from cluster.statistics.completeness import completeness
from cluster.statistics.query import counted_events
from vision.errors import BinsightError
from vision.notes import Note, NoteKind

_LITTLE_ROOM_BYTES = 1_000_000_000
_SLOW_SYNC_MS = 100.0
_ANSWER_S = 5.0
_SILENT_HOURS = 24
_HOUR_MS = 3_600_000
# A bin sends one every hour at least.
_NO_STATUS_MS = 2 * _HOUR_MS
# So many are named; the others are counted.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the operator's screen.

    Attributes:
        what: was checked.
        state: "ok", "warn" or "bad".
        message: what is so, and what to do.
    """

    what: str
    state: str
    message: str


def check(config: HubConfig, now_utc_ms: int) -> Iterator[Finding]:
    """Yield what was found, one part of the hub after the other.

    Args:
        config: of the hub.
        now_utc_ms: the hub's clock.
    """
    yield _settings(config)
    yield _room(config)
    if not config.lake.is_dir():
        yield Finding("lake", "warn", f"{config.lake} is not there: no hub ever ran on it")
        return
    parts: list[tuple[str, Callable[[], Finding]]] = [
        ("hub", lambda: _hub(config)),
        ("log", lambda: _log(config)),
        ("lake", lambda: _lake(config)),
        ("statistics", lambda: _statistics(config)),
        ("registry", lambda: _registry(config)),
        ("bins", lambda: _bins(config, now_utc_ms)),
        ("status", lambda: _status(config, now_utc_ms)),
    ]
    for what, part in parts:
        try:
            yield part()
        except BinsightError as error:
            yield Finding(what, "bad", str(error))


def _settings(config: HubConfig) -> Finding:
    where = f"{config.host}:{config.port}"
    if config.require_signatures:
        return Finding("settings", "ok", f"{where}, signed batches only")
    if config.token is None and not config.host.startswith("127."):
        return Finding(
            "settings",
            "bad",
            f"whoever reaches {where} can send events: set token or require_signatures",
        )
    kind = "a token" if config.token else "no token, this machine alone"
    return Finding("settings", "ok", f"{where}, unsigned batches with {kind}")


def _room(config: HubConfig) -> Finding:
    folder = config.lake
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            ms = 1000 * (time.perf_counter() - started)
    except OSError as error:
        return Finding("disk", "bad", f"{folder} cannot be written ({error.strerror})")
    message = f"{free / 1e9:.1f} GB free, a synced write takes {ms:.1f} ms"
    if free < _LITTLE_ROOM_BYTES:
        return Finding("disk", "bad", f"{message}: make room, or the lake takes nothing soon")
    return Finding("disk", "warn" if ms > _SLOW_SYNC_MS else "ok", message)


def _hub(config: HubConfig) -> Finding:
    if not open_lake(config).claim.is_taken():
        return Finding("hub", "warn", "no hub runs on this lake: binsight hub serve")
    if not config.port:
        return Finding("hub", "ok", "a hub runs on this lake; port 0 does not say where")
    host = "127.0.0.1" if config.host in ("0.0.0.0", "") else config.host  # noqa: S104  asked, not bound
    url = f"http://{host}:{config.port}/v1/health"
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            events = json.loads(answer.read())["ingest"]["events"]
    except urllib.error.HTTPError as error:
        return Finding("hub", "bad", _problems(error) or f"{url} answers {error.code}")
    except (KeyError, TypeError):
        return Finding("hub", "bad", f"what answers at {url} is no binsight hub")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Finding(
            "hub", "bad", f"a hub runs on this lake, but {url} does not answer ({error})"
        )
    return Finding("hub", "ok", f"{url}: {events} events since its start")


def _problems(error: urllib.error.HTTPError) -> str:
    """Return what a hub says is wrong with it, "" where something else answers."""
    try:
        return "; ".join(map(str, json.loads(error.read())["problems"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _log(config: HubConfig) -> Finding:
    path = config.lake / LOG_NAME
    if not path.exists():
        return Finding("log", "warn", f"{path.name} is not there: no hub of this version ran")
    waiting, damaged = look_into_log(path)
    if damaged:
        return Finding(
            "log", "bad", f"{damaged} entries are damaged and set aside in {path.name}: keep it"
        )
    return Finding("log", "ok", f"{waiting} events wait for the lake")


def _lake(config: HubConfig) -> Finding:
    lake = open_lake(config)
    if not lake.has_events():
        return Finding("lake", "warn", "no event has arrived yet")
    by_date = lake.files_by_arrival()
    files = sum(len(some) for some in by_date.values())
    message = f"{lake.event_count()} events of {len(by_date)} arrival dates in {files} files"
    crowded = [date for date, some in by_date.items() if len(some) > 4 * COMPACT_EVERY_COMMITS]
    if crowded:
        return Finding("lake", "warn", f"{message}; {crowded[0]} is not compacted")
    if config.storage:
        return Finding("lake", "ok", f"{message} in {config.storage}")
    log_files = sum(1 for _ in (config.lake / EVENTS / "_delta_log").iterdir())
    return Finding("lake", "ok", f"{message}, {log_files} log entries")


def _statistics(config: HubConfig) -> Finding:
    lake = open_lake(config)
    behind = lake.event_count() - counted_events(lake)
    if not behind:
        return Finding("statistics", "ok", "hold every event of the lake")
    by_itself = f"counted every {config.aggregate_interval_s:g} s"
    how = by_itself if config.aggregate_interval_s else "run binsight hub aggregate"
    return Finding("statistics", "warn", f"{behind} events are not counted yet; {how}")


def _registry(config: HubConfig) -> Finding:
    url = config.registry_url()
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).exists():
        return Finding("registry", "warn", "is not there: no hub of this version ran")
    registry = Registry(url, upgrade=False)
    try:
        bins = registry.bins(Scope())
    finally:
        registry.close()
    unsigned = [b.place.bin_id for b in bins if not b.keys]
    renewing = [b.place.bin_id for b in bins if b.renew_key]
    message = f"{len(bins)} bins, {len(bins) - len(unsigned)} with a key"
    if renewing:
        message += f", {_some(renewing)} asked for a new key"
    if config.require_signatures and unsigned:
        return Finding("registry", "warn", f"{message}; refused without a key: {_some(unsigned)}")
    return Finding("registry", "ok", message)


def _bins(config: HubConfig, now_utc_ms: int) -> Finding:
    rows = completeness(open_lake(config))
    if not rows:
        return Finding("bins", "ok", "nothing is counted yet")
    last: dict[str, int] = {}
    for row in rows:
        last[row.bin_id] = max(last.get(row.bin_id, 0), row.last_received_utc_ms)
    limit = now_utc_ms - _SILENT_HOURS * _HOUR_MS
    silent = sorted(bin_id for bin_id, utc_ms in last.items() if utc_ms < limit)
    missing = sum(row.missing for row in rows)
    dropped = sum(row.dropped for row in rows)
    message = f"{len(last)} bins have sent; {missing} events are missing, {dropped} of them dropped"
    if silent:
        return Finding("bins", "warn", f"{message}; silent for a day: {_some(silent)}")
    return Finding("bins", "ok", message)


def _status(config: HubConfig, now_utc_ms: int) -> Finding:
    """What the bins say of themselves; one that says so no more is silent, whatever it saw."""
    path = config.lake / LOG_NAME
    notes = last_notes(path) if path.exists() else []
    statuses = [note for note in notes if note.kind == NoteKind.STATUS]
    if not statuses:
        return Finding("status", "ok", "no bin sends a status")
    limit = now_utc_ms - _NO_STATUS_MS
    silent = [note.bin_id for note in statuses if note.received_utc_ms < limit]
    troubled = []
    for last in statuses:
        if problems := Note.from_dict(json.loads(last.body)).problems():
            part, text = next(iter(problems.items()))
            troubled.append(f"{last.bin_id} ({part}: {text[:80]})")
    message = f"{len(statuses)} bins send one"
    if silent:
        message += f"; none for two hours: {_some(silent)}"
    if troubled:
        message += f"; {len(troubled)} say that something is wrong: {_some(troubled)}"
    return Finding("status", "warn" if silent or troubled else "ok", message)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
