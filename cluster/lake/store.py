"""Delta Lake tables on disk: events, and the statistics made from them.

The hub's only address of deltalake. It stores what it is given: it reads no clock and dates no
event. `append` returns when the commit is synced to the disk (`cluster.lake.durable`).

What a commit holds of the ingest log is stored in that very commit (a Delta application
transaction), so no entry of the log can be taken twice. The cost of a commit stays the same over
the years: the table is kept open, small files are compacted, and old ones and old log entries go.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    write_deltalake,
)
from deltalake.exceptions import DeltaError, TableNotFoundError

from cluster.lake.durable import drop_torn_commits, sync_all, sync_commit
from cluster.lake.schema import EVENTS
from vision.errors import StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

# Small files are compacted after so many commits, those of an earlier process counted.
COMPACT_EVERY_COMMITS = 32
# Files of this size are left alone.
COMPACT_BYTES = 64 * 1024 * 1024
# A reader that has listed the files of a version may read them for so long.
KEEP_FILES_HOURS = 24
# A statistics table is cleaned up after so many versions.
CLEAN_EVERY_VERSIONS = 32
# Another process may have the lake for moments: a hub that stops, an aggregation that moves what a
# stopped hub left.
CLAIM_WAIT_S = 3.0
_LOCK_NAME = ".hub.lock"
# Columns that part a statistics table.
PART_COLUMNS = ("arrival_date", "part")
# Names of Delta's own table properties.
_PROPERTIES = {
    "delta.checkpointInterval": "1000",  # `maintain` makes them
    "delta.logRetentionDuration": "interval 1 hours",
    "delta.deletedFileRetentionDuration": f"interval {KEEP_FILES_HOURS} hours",
}
# By itself deltalake would remove log entries before the checkpoint that replaces them is synced:
# `_clean` does both, in that order.
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class Lake:
    """The event table and the statistics tables of one hub.

    Args:
        root: folder; made if missing.

    Attributes:
        folder: as given.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root
        self._settled = False
        self._claim: TextIO | None = None
        # The writer's own: nobody else may commit to the events.
        self._events: DeltaTable | None = None
        self._event_count: int | None = None
        self._commits_since_compaction = 0
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

    def claim(self) -> None:
        """Become the one hub that takes events into this lake, until `release`.

        Raises:
            StorageError: another hub is.
        """
        deadline = time.monotonic() + CLAIM_WAIT_S
        while not self.try_claim():
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{self.folder}: another hub takes events into this lake; stop it, or name "
                    "another lake"
                )
            time.sleep(0.1)

    def try_claim(self) -> bool:
        """Claim the lake if no other hub has it, and return whether it worked."""
        try:
            claim = (self.folder / _LOCK_NAME).open("w")
        except OSError as error:
            raise StorageError(
                f"{self.folder / _LOCK_NAME}: cannot be opened ({error.strerror})"
            ) from error
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            claim.close()
            return False
        self._claim = claim
        return True

    def is_claimed(self) -> bool:
        """Return whether a hub has the lake; changes nothing.

        Raises:
            StorageError: it cannot be found out.
        """
        try:
            with (self.folder / _LOCK_NAME).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise StorageError(f"{self.folder / _LOCK_NAME}: {error.strerror}") from error
        return False

    def release(self) -> None:
        """Let another hub claim the lake."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def moved(self, log_id: str, forgotten: int) -> int:
        """Return the number of the last entry of an ingest log that the events durably hold, or 0.

        After a start, or a failure, the disk may hold commits that nobody has synced.

        Args:
            log_id: of the log.
            forgotten: number of the last entry that the log holds no more.

        Raises:
            StorageError: files are missing that nothing can bring back.
        """
        if not self._settled:
            sync_all()
            self._mapped(EVENTS, "cannot be settled", lambda: self._drop_torn(log_id, forgotten))
        table = self._open_events()
        self._settled = True
        return int((table.transaction_version(log_id) if table else None) or 0)

    def append(self, rows: pa.Table, log_id: str, last_number: int) -> None:
        """Store events in one durable commit that names what it holds of an ingest log.

        Args:
            rows: of EVENT_SCHEMA.
            log_id: the log that they come from.
            last_number: of the last entry among them.

        Raises:
            StorageError: the log must keep them. They may be in the lake all the same: ask `moved`.
        """
        self._guarded(lambda: self._append(rows, log_id, last_number))
        self._commits_since_compaction += 1

    def maintain(self) -> None:
        """Compact and clean up where it is due; readers of the last KEEP_FILES_HOURS go on.

        Raises:
            StorageError: it was not done; nothing is lost.
        """
        if self._commits_since_compaction >= COMPACT_EVERY_COMMITS and self._events is not None:
            self._guarded(self._compact)
            self._commits_since_compaction = 0

    def event_count(self) -> int:
        """Return how many events the lake holds."""
        known = self._event_count
        return self._count(self._open(EVENTS)) if known is None else known

    def has_events(self) -> bool:
        """Return whether there is a table of events."""
        return self._open(EVENTS) is not None

    def outboxes(self) -> dict[str, tuple[str, int]]:
        """Return the bin of each outbox, and its greatest event number.

        Reads three columns of every file. Of several bins it is the one of the greatest number.
        """
        found: dict[str, tuple[str, int]] = {}
        for file in self.files(EVENTS):
            rows = pq.read_table(file, columns=["outbox_id", "bin_id", "seq"], partitioning=None)
            groups = rows.group_by(["outbox_id", "bin_id"]).aggregate([("seq", "max")])
            for row in groups.to_pylist():
                _, known = found.get(row["outbox_id"], ("", 0))
                if row["seq_max"] > known:
                    found[row["outbox_id"]] = (row["bin_id"], row["seq_max"])
        return found

    def replace_parts(self, name: str, rows: pa.Table, dates: Sequence[str] | None) -> None:
        """Replace the parts of a statistics table that were counted now.

        Args:
            name: of the table.
            rows: with the columns of PART_COLUMNS: the part's arrival date, and a text that says
                what it was counted from.
            dates: arrival dates that are replaced; None replaces the whole table.
        """
        path = self.folder / name

        def replace() -> None:
            quoted = ", ".join(f"'{date}'" for date in dates or ())
            write_deltalake(
                self._uri(name),
                rows,
                mode="overwrite",
                partition_by=list(PART_COLUMNS),
                predicate=None if dates is None else f"arrival_date IN ({quoted})",
                schema_mode="overwrite" if dates is None else None,
                post_commithook_properties=_NO_HOOKS,
            )
            table = DeltaTable(self._uri(name))
            sync_commit(path, table.version())
            if table.version() % CLEAN_EVERY_VERSIONS == CLEAN_EVERY_VERSIONS - 1:
                self._clean(name, table)

        self._mapped(name, "cannot be written", replace)

    def parts(self, name: str) -> dict[str, str]:
        """Return the arrival dates of a statistics table, and what each was counted from.

        Empty if there is no such table, or one of an earlier version.
        """
        table = self._open(name)
        if table is None or set(table.metadata().partition_columns) != set(PART_COLUMNS):
            return {}
        return {part["arrival_date"]: part["part"] for part in table.partitions()}

    def files(self, name: str) -> list[str]:
        """Return the Parquet files of a table's newest version; empty if there is no table."""
        table = self._open(name)
        return sorted(unquote(urlsplit(uri).path) for uri in table.file_uris()) if table else []

    def files_by_arrival(self) -> dict[str, list[str]]:
        """Return the event files of each arrival date: the unit of aggregation."""
        groups: dict[str, list[str]] = {}
        for uri in self.files(EVENTS):
            groups.setdefault(Path(uri).parent.name.partition("=")[2], []).append(uri)
        return groups

    def _drop_torn(self, log_id: str, forgotten: int) -> None:
        if torn := drop_torn_commits(self.folder / EVENTS, log_id, forgotten):
            log.warning(
                "lake: commits %s were cut off half-way; their events come again from the log",
                ", ".join(map(str, torn)),
            )

    def _open_events(self) -> DeltaTable | None:
        """Return the events, kept open; what is left to compact of the newest date is counted."""
        if self._events is None and (table := self._open(EVENTS)):
            self._events = table
            dates = [uri.rpartition("/")[0] for uri in table.file_uris()]
            self._commits_since_compaction = dates.count(max(dates)) if dates else 0
        return self._events

    def _append(self, rows: pa.Table, log_id: str, last_number: int) -> None:
        self._open_events()
        # A table that is not there yet is made by the same call.
        # A lake of an earlier version gets the columns that it lacks.
        write_deltalake(
            self._uri(EVENTS) if self._events is None else self._events,
            rows,
            mode="append",
            partition_by=["arrival_date"],
            configuration=_PROPERTIES if self._events is None else None,
            commit_properties=CommitProperties(app_transactions=[Transaction(log_id, last_number)]),
            schema_mode="merge",
            post_commithook_properties=_NO_HOOKS,
        )
        if self._events is None:
            self._events = DeltaTable(self._uri(EVENTS))
        sync_commit(self.folder / EVENTS, self._events.version())
        self._event_count = self._count(self._events)

    def _compact(self) -> None:
        table = self._events
        assert table is not None  # noqa: S101  narrows the type; `maintain` asks
        before = table.version()
        table.optimize.compact(target_size=COMPACT_BYTES, post_commithook_properties=_NO_HOOKS)
        self._sync_since(EVENTS, table, before)
        self._clean(EVENTS, table)

    def _clean(self, name: str, table: DeltaTable) -> None:
        """Write a checkpoint, and remove files and log entries that no reader needs any more.

        What replaces them is on the disk before they go. Each of these steps may be a commit of its
        own: one that is missing after a power cut would hide all that come after it.
        """
        before = table.version()
        if any(table.metadata().configuration.get(k) != v for k, v in _PROPERTIES.items()):
            table.alter.set_table_properties(_PROPERTIES, post_commithook_properties=_NO_HOOKS)
        table.create_checkpoint()
        self._sync_since(name, table, before)
        before = table.version()
        table.vacuum(
            retention_hours=KEEP_FILES_HOURS,
            dry_run=False,
            enforce_retention_duration=False,
            post_commithook_properties=_NO_HOOKS,
        )
        self._sync_since(name, table, before)
        table.cleanup_metadata()

    def _sync_since(self, name: str, table: DeltaTable, version: int) -> None:
        """Sync the commits after a version, and the checkpoint of the newest."""
        table.update_incremental()
        for number in range(version, table.version() + 1):
            sync_commit(self.folder / name, number)

    @staticmethod
    def _count(table: DeltaTable | None) -> int:
        return int(table.count()) if table else 0

    def _uri(self, name: str) -> str:
        return (self.folder / name).resolve().as_uri()

    def _open(self, name: str) -> DeltaTable | None:
        def opened() -> DeltaTable | None:
            try:
                return DeltaTable(self._uri(name))
            except TableNotFoundError:
                return None

        return self._mapped(name, "cannot be read", opened)

    def _guarded(self, write: Callable[[], None]) -> None:
        """Run what commits to the events; after a failure nothing that is kept of them is believed.

        Whatever the failure is.
        """
        done = False
        try:
            self._mapped(EVENTS, "cannot be written", write)
            done = True
        finally:
            if not done:
                self._settled = False
                self._events = None
                self._event_count = None

    def _mapped(self, name: str, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (DeltaError, OSError) as error:
            raise StorageError(f"{self.folder / name}: the lake {what} ({error})") from error
        except BaseException as error:
            # In Python a panic of a Rust library is no Exception, and passes all that catch.
            if type(error).__name__ != "PanicException":
                raise
            raise StorageError(
                f"{self.folder / name}: deltalake broke down, the lake {what} ({error})"
            ) from error
