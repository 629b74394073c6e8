"""Delta Lake tables: events, notes, and the statistics made from them.

It stores what it is given: it reads no clock and dates no event. `append` returns when the commit
is synced to the disk (`cluster.lake.durable`), or whole in S3 (`cluster.lake.storage`).

What a commit holds of the ingest log is stored in that very commit (a Delta application
transaction), so no entry of the log can be taken twice. The cost of a commit stays the same over
the years: the table is kept open, small files are compacted, and old ones and old log entries go.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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

from cluster.lake.claim import Claim
from cluster.lake.durable import drop_torn_commits, sync_all, sync_commit
from cluster.lake.schema import APPENDED, EVENTS
from cluster.lake.storage import Storage, local_storage, open_files
from vision.errors import StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

# Small files are compacted after so many commits, those of an earlier process counted.
COMPACT_EVERY_COMMITS = 32
# Files of this size are left alone: what was counted of them stays counted, and so a refresh of the
# statistics costs the same however much a day brings. About 200,000 events.
COMPACT_BYTES = 8 * 1024 * 1024
# A reader that has listed the files of a version may read them for so long.
KEEP_FILES_HOURS = 24
# A statistics table is cleaned up after so many versions.
CLEAN_EVERY_VERSIONS = 32
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


@dataclass(slots=True, eq=False)
class _Appended:
    """What the writer keeps of a table that nobody else may commit to.

    Attributes:
        table: kept open.
        settled: whether all that it holds is synced.
        rows: how many it holds; None if not known.
        commits_since_compaction: to it.
    """

    table: DeltaTable | None = None
    settled: bool = False
    rows: int | None = None
    commits_since_compaction: int = 0


class Lake:
    """The tables of one hub: those that it appends to (APPENDED), and the statistics.

    Args:
        root: folder of what is not in tables, and of the tables too; made if missing.
        storage: of the tables, if elsewhere.

    Attributes:
        folder: as given.
        storage: of the tables.
        claim: the right to append.
    """

    def __init__(self, root: Path, storage: Storage | None = None) -> None:
        self.folder = root
        self.storage = storage or local_storage(root)
        self.claim = Claim(root)
        self._appended = {name: _Appended() for name in APPENDED}
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{root}: the lake's folder cannot be made ({error.strerror})"
            ) from error

    def moved(self, log_id: str, forgotten: int, name: str = EVENTS) -> int:
        """Return the number of the last entry of an ingest log that a table durably holds, or 0.

        After a start, or a failure, the disk may hold commits that nobody has synced.

        Args:
            log_id: of the log.
            forgotten: number of the last entry for this table that the log holds no more.
            name: of the table.

        Raises:
            StorageError: files are missing that nothing can bring back.
        """
        own = self._appended[name]
        if not own.settled and self.storage.is_local:
            sync_all()
            self._mapped(
                name, "cannot be settled", lambda: self._drop_torn(name, log_id, forgotten)
            )
        table = self._kept_open(name)
        own.settled = True
        if table is None:
            return 0
        known = self._mapped(name, "cannot be read", lambda: table.transaction_version(log_id))
        return int(known or 0)

    def append(self, rows: pa.Table, log_id: str, last_number: int, name: str = EVENTS) -> None:
        """Store rows in one durable commit that names what it holds of an ingest log.

        Args:
            rows: of the table's schema.
            log_id: the log that they come from.
            last_number: of the last entry among them.
            name: of the table.

        Raises:
            StorageError: the log must keep them. They may be in the lake all the same: ask `moved`.
        """
        self._guarded(name, lambda: self._append(name, rows, log_id, last_number))
        self._appended[name].commits_since_compaction += 1

    def maintain(self, name: str = EVENTS) -> None:
        """Compact and clean up where it is due; readers of the last KEEP_FILES_HOURS go on.

        Raises:
            StorageError: it was not done; nothing is lost.
        """
        own = self._appended[name]
        if own.commits_since_compaction >= COMPACT_EVERY_COMMITS and own.table is not None:
            self._guarded(name, lambda: self._compact(name))
            own.commits_since_compaction = 0

    def event_count(self) -> int:
        """Return how many events the lake holds."""
        known = self._appended[EVENTS].rows
        return self._count(self._open(EVENTS)) if known is None else known

    def has_events(self) -> bool:
        """Return whether there is a table of events."""
        return self._open(EVENTS) is not None

    def outboxes(self) -> dict[str, tuple[str, int]]:
        """Return the bin of each outbox, and its greatest number.

        Reads three columns of every file. Of several bins it is the one of the greatest number.
        """
        found: dict[str, tuple[str, int]] = {}
        files = [(name, file) for name in APPENDED for file in self.files(name)]
        for table, file in files:
            rows = self._read(table, file, ["outbox_id", "bin_id", "seq"])
            groups = rows.group_by(["outbox_id", "bin_id"]).aggregate([("seq", "max")])
            for row in groups.to_pylist():
                _, known = found.get(row["outbox_id"], ("", 0))
                if row["seq_max"] > known:
                    found[row["outbox_id"]] = (row["bin_id"], row["seq_max"])
        return found

    def replace_parts(
        self, name: str, rows: pa.Table, parts: Sequence[tuple[str, str]] | None
    ) -> None:
        """Replace the parts of a statistics table that were counted now.

        Args:
            name: of the table.
            rows: with the columns of PART_COLUMNS: the part's arrival date, and a text that says
                what it was counted from.
            parts: (arrival date, text) of those that go and of those that come; None replaces the
                whole table.
        """

        def replace() -> None:
            named = [f"(arrival_date = '{date}' AND part = '{part}')" for date, part in parts or ()]
            write_deltalake(
                self.storage.uri(name),
                rows,
                mode="overwrite",
                partition_by=list(PART_COLUMNS),
                predicate=None if parts is None else " OR ".join(named),
                schema_mode="overwrite" if parts is None else None,
                post_commithook_properties=_NO_HOOKS,
                storage_options=self._options(),
            )
            table = self._table(name)
            self._sync(name, table.version())
            if table.version() % CLEAN_EVERY_VERSIONS == CLEAN_EVERY_VERSIONS - 1:
                self._clean(name, table)

        self._mapped(name, "cannot be written", replace)

    def parts(self, name: str) -> set[tuple[str, str]]:
        """Return the parts of a statistics table: arrival date, and what it was counted from.

        Empty if there is no such table, or one of an earlier version.
        """
        table = self._open(name)
        if table is None or set(table.metadata().partition_columns) != set(PART_COLUMNS):
            return set()
        return {(part["arrival_date"], part["part"]) for part in table.partitions()}

    def files(self, name: str) -> list[str]:
        """Return the Parquet files of a table's newest version; empty if there is no table."""
        table = self._open(name)
        return sorted(map(self.storage.path_or_uri, table.file_uris())) if table else []

    def files_by_arrival(self) -> dict[str, list[str]]:
        """Return the event files of each arrival date: the unit of aggregation."""
        groups: dict[str, list[str]] = {}
        for uri in self.files(EVENTS):
            groups.setdefault(Path(uri).parent.name.partition("=")[2], []).append(uri)
        return groups

    def _drop_torn(self, name: str, log_id: str, forgotten: int) -> None:
        if torn := drop_torn_commits(self.folder / name, log_id, forgotten):
            log.warning(
                "lake: commits %s of %s were cut off half-way; they come again from the log",
                ", ".join(map(str, torn)),
                name,
            )

    def _kept_open(self, name: str) -> DeltaTable | None:
        """Return a table, kept open; what is left to compact of the newest date is counted."""
        own = self._appended[name]
        if own.table is None and (table := self._open(name)):
            own.table = table
            dates = [uri.rpartition("/")[0] for uri in table.file_uris()]
            own.commits_since_compaction = dates.count(max(dates)) if dates else 0
        return own.table

    def _append(self, name: str, rows: pa.Table, log_id: str, last_number: int) -> None:
        table = self._kept_open(name)
        # A table that is not there yet is made by the same call.
        # A lake of an earlier version gets the columns that it lacks.
        write_deltalake(
            table or self.storage.uri(name),
            rows,
            mode="append",
            partition_by=["arrival_date"],
            configuration=None if table else _PROPERTIES,
            commit_properties=CommitProperties(app_transactions=[Transaction(log_id, last_number)]),
            schema_mode="merge",
            post_commithook_properties=_NO_HOOKS,
            storage_options=self._options(),
        )
        own = self._appended[name]
        own.table = table = table or self._table(name)
        self._sync(name, table.version())
        own.rows = self._count(table)

    def _compact(self, name: str) -> None:
        table = self._appended[name].table
        assert table is not None  # noqa: S101  narrows the type; `maintain` asks
        before = table.version()
        table.optimize.compact(target_size=COMPACT_BYTES, post_commithook_properties=_NO_HOOKS)
        self._sync_since(name, table, before)
        self._clean(name, table)

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
            self._sync(name, number)

    def _sync(self, name: str, version: int) -> None:
        if self.storage.is_local:
            sync_commit(self.folder / name, version)

    def _table(self, name: str) -> DeltaTable:
        return DeltaTable(self.storage.uri(name), storage_options=self._options())

    def _options(self) -> dict[str, str] | None:
        return dict(self.storage.options) or None

    def _read(self, name: str, file: str, columns: list[str]) -> pa.Table:
        if self.storage.is_local:
            return pq.read_table(file, columns=columns, partitioning=None)
        return self._mapped(
            name,
            "cannot be read",
            lambda: open_files([file], self.storage.options).to_table(columns),
        )

    @staticmethod
    def _count(table: DeltaTable | None) -> int:
        return int(table.count()) if table else 0

    def _open(self, name: str) -> DeltaTable | None:
        def opened() -> DeltaTable | None:
            try:
                return self._table(name)
            except TableNotFoundError:
                return None

        return self._mapped(name, "cannot be read", opened)

    def _guarded(self, name: str, write: Callable[[], None]) -> None:
        """Run what commits to a table; after a failure nothing that is kept of it is believed.

        Whatever the failure is.
        """
        done = False
        try:
            self._mapped(name, "cannot be written", write)
            done = True
        finally:
            if not done:
                self._appended[name] = _Appended()

    def _where(self, name: str) -> str:
        return str(self.folder / name) if self.storage.is_local else self.storage.uri(name)

    def _mapped(self, name: str, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (DeltaError, OSError) as error:
            raise StorageError(f"{self._where(name)}: the lake {what} ({_plain(error)})") from error
        except BaseException as error:
            # In Python a panic of a Rust library is no Exception, and passes all that catch.
            if type(error).__name__ != "PanicException":
                raise
            raise StorageError(
                f"{self._where(name)}: deltalake broke down, the lake {what} ({_plain(error)})"
            ) from error


def _plain(error: BaseException) -> str:
    """Return a message without colours, on one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|\u21b3", "", str(error)).split())
