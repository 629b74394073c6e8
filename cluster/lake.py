"""Delta Lake tables on disk: events, and the statistics made from them.

The hub's only address of deltalake.

deltalake does not fsync on a local disk: a simulated power cut lost every acknowledged commit.
`append` therefore syncs the files a commit added, its log entry and their folders before it
returns.

The high-water mark of an outbox is stored in the very commit that stores its events (a Delta
application transaction), so a hub keeps no state of its own and cannot take a batch twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from vision.errors import StorageError
from vision.events import Batch, ItemEvent

_ARROW = {"int": pa.int64(), "str": pa.string(), "bool": pa.bool_(), "float": pa.float64()}
# No bin of this make was in a street before; no clock runs further ahead than this.
EARLIEST_UTC_MS = 1_735_689_600_000
FUTURE_MS = 600_000
# `extra` holds the fields of newer bins as JSON text.
EVENT_SCHEMA = pa.schema(
    [
        ("outbox_id", pa.string()),
        ("seq", pa.int64()),
        ("bin_id", pa.string()),
        ("outbox_dropped", pa.int64()),
        ("received_utc_ms", pa.int64()),
        ("event_utc_ms", pa.int64()),
        ("event_time_source", pa.string()),
        ("arrival_date", pa.string()),
        *((f.name, _ARROW[str(f.type)]) for f in fields(ItemEvent) if f.name != "extra"),
        ("extra", pa.string()),
    ]
)


class Lake:
    """The event table and the statistics tables of one hub.

    Args:
        root: folder; made if missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # False while the disk may hold commits that nobody has synced: after a start, and after a
        # failed commit.
        self._settled = False
        if unquote(str(root.resolve())) != str(root.resolve()):
            raise StorageError(
                f"{root}: deltalake takes %XX in a path for an encoded letter; name another folder"
            )
        if pattern := sorted(set(str(root.resolve())) & set("*?[]{}")):
            raise StorageError(
                f"{root}: deltalake and DuckDB read {' '.join(pattern)} in a path as a pattern; "
                "name another folder"
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{root}: the lake's folder cannot be made ({error.strerror})"
            ) from error

    def high_water_mark(self, outbox_id: str) -> int:
        """Return the greatest event number of an outbox that is durable here, 0 for an unknown one."""
        if not self._settled:
            os.sync()
            self._settled = True
        table = self._open("events")
        return int((table.transaction_version(outbox_id) if table else None) or 0)

    def append(self, batches: Sequence[Batch], received_utc_ms: int) -> None:
        """Store batches in one durable commit, with the new high-water marks.

        Args:
            batches: only events above the marks; several batches of one outbox in rising order.
            received_utc_ms: time of arrival, UTC.

        Raises:
            StorageError: nothing may be acknowledged.
        """
        marks = {b.outbox_id: b.events[-1][0] for b in batches}
        self._commit(
            "events", events_table(batches, received_utc_ms), "append", marks, {}, ["arrival_date"]
        )

    def replace_statistics(self, name: str, table: pa.Table, events_version: int) -> None:
        """Replace a statistics table, noting the version of the events that it was computed from."""
        self._commit(name, table, "overwrite", {}, {"events_version": str(events_version)}, None)

    def files(self, name: str) -> list[str]:
        """Return the Parquet files of a table's newest version; empty if there is no such table."""
        table = self._open(name)
        return sorted(unquote(urlsplit(uri).path) for uri in table.file_uris()) if table else []

    def files_by_arrival(self) -> dict[str, list[str]]:
        """Return the event files of each arrival date: the unit of aggregation."""
        groups: dict[str, list[str]] = {}
        for uri in self.files("events"):
            groups.setdefault(Path(uri).parent.name.partition("=")[2], []).append(uri)
        return groups

    def version(self, name: str) -> int:
        """Return the newest version of a table, -1 if there is none."""
        table = self._open(name)
        return int(table.version()) if table else -1

    def events_version_of(self, name: str) -> int:
        """Return the version of the events that a statistics table was computed from, -1 if there is none."""
        table = self._open(name)
        return int(table.history(1)[0].get("events_version", -1)) if table else -1

    def claim(self) -> None:
        """Become the one hub that takes events into this lake, until the process ends.

        Raises:
            StorageError: another hub is.
        """
        self._claim = (self._root / ".hub.lock").open("w")
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{self._root}: another hub takes events into this lake; stop it, or name another "
                "lake"
            ) from error

    def _uri(self, name: str) -> str:
        return (self._root / name).resolve().as_uri()

    def _open(self, name: str) -> DeltaTable | None:
        try:
            return DeltaTable(self._uri(name))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise StorageError(f"{self._root / name}: the lake cannot be read ({error})") from error
        except BaseException as error:
            _must_be_a_panic(error)
            raise StorageError(
                f"{self._root / name}: deltalake broke down reading the lake ({error})"
            ) from error

    def _commit(
        self,
        name: str,
        table: pa.Table,
        mode: str,
        marks: Mapping[str, int],
        metadata: dict[str, str],
        partition_by: list[str] | None,
    ) -> None:
        path = self._root / name
        properties = CommitProperties(
            custom_metadata=metadata,
            app_transactions=[Transaction(app, version) for app, version in marks.items()],
        )
        try:
            # A table that is not there yet is made by the same call.
            # A lake of an earlier version gets the columns that it lacks.
            write_deltalake(
                self._uri(name),
                table,
                mode=mode,
                partition_by=partition_by,
                commit_properties=properties,
                schema_mode="merge" if mode == "append" else "overwrite",
            )
            _sync(path, DeltaTable(self._uri(name)).version())
        except (DeltaError, OSError) as error:
            self._settled = False
            raise StorageError(f"{path}: the commit failed ({error})") from error
        except BaseException as error:
            self._settled = False
            _must_be_a_panic(error)
            raise StorageError(f"{path}: deltalake broke down in the commit ({error})") from error


def _must_be_a_panic(error: BaseException) -> None:
    """Raise again what is no panic of a Rust library.

    In Python a panic is no Exception, and passes all that catch.
    """
    if type(error).__name__ != "PanicException":
        raise error


def events_table(batches: Sequence[Batch], received_utc_ms: int) -> pa.Table:
    """Return batches as one Arrow table of EVENT_SCHEMA."""
    day = datetime.fromtimestamp(received_utc_ms / 1000, UTC).date().isoformat()
    rows = []
    for batch in batches:
        head = {
            "outbox_id": batch.outbox_id,
            "bin_id": batch.bin_id,
            "outbox_dropped": batch.dropped,
        }
        for seq, event in batch.events:
            row = {name: getattr(event, name) for name in _EVENT_FIELDS}
            extra = json.dumps(dict(event.extra), sort_keys=True) if event.extra else None
            event_utc_ms, event_time_source = event_time(event, batch, received_utc_ms)
            rows.append(
                {
                    **row,
                    **head,
                    "seq": seq,
                    "received_utc_ms": received_utc_ms,
                    "event_utc_ms": event_utc_ms,
                    "event_time_source": event_time_source,
                    "arrival_date": day,
                    "extra": extra,
                }
            )
    return pa.Table.from_pylist(rows, schema=EVENT_SCHEMA)


def event_time(event: ItemEvent, batch: Batch, received_utc_ms: int) -> tuple[int, str]:
    """Return when an event happened, UTC ms, and who says so.

    "bin": its wall clock was set, and does not speak of the future. "hub": from the bin's monotonic
    clock, counted back from the arrival. "latest": the bin has started again since, so it was
    before that start; "arrival": the bin says nothing of its clock.
    """
    if event.clock_synced and EARLIEST_UTC_MS <= event.wall_utc_ms <= received_utc_ms + FUTURE_MS:
        return event.wall_utc_ms, "bin"
    if batch.sent_monotonic_ms < 0:
        return received_utc_ms, "arrival"
    if event.boot_id == batch.sent_boot_id and event.monotonic_ms <= batch.sent_monotonic_ms:
        return received_utc_ms - (batch.sent_monotonic_ms - event.monotonic_ms), "hub"
    return received_utc_ms - batch.sent_monotonic_ms, "latest"


_EVENT_FIELDS = tuple(f.name for f in fields(ItemEvent) if f.name != "extra")


def _sync(table: Path, version: int) -> None:
    """fsync what one commit wrote: data files, log entry, and every folder up to the lake's own."""
    log = table / "_delta_log" / f"{version:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    written = [table / unquote(action["add"]["path"]) for action in actions if "add" in action]
    # Every hundredth commit or so also leaves a checkpoint: a lost one would make the whole table
    # unreadable.
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
