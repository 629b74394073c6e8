"""Delta Lake tables on disk: events, and the statistics made from them.

The hub's only address of deltalake. It stores what it is given: it reads no clock and dates no
event. `append` returns when the commit is synced to the disk (`cluster.lake.durable`).

The high-water mark of an outbox is stored in the very commit that stores its events (a Delta
application transaction), so a hub keeps no state of its own and cannot take a batch twice.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from cluster.lake.durable import sync_all, sync_commit
from cluster.lake.schema import EVENTS, DatedBatch, events_table
from vision.errors import StorageError


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
        """Return the greatest event number of an outbox that is durable, 0 for an unknown one."""
        if not self._settled:
            sync_all()
            self._settled = True
        table = self._open(EVENTS)
        return int((table.transaction_version(outbox_id) if table else None) or 0)

    def append(self, batches: Sequence[DatedBatch], received_utc_ms: int) -> None:
        """Store batches in one durable commit, with the new high-water marks.

        Args:
            batches: only events above the marks; several batches of one outbox in rising order.
            received_utc_ms: time of arrival, UTC.

        Raises:
            StorageError: nothing may be acknowledged.
        """
        marks = {dated.batch.outbox_id: dated.batch.events[-1][0] for dated in batches}
        properties = CommitProperties(
            app_transactions=[Transaction(outbox_id, seq) for outbox_id, seq in marks.items()]
        )
        self._commit(EVENTS, events_table(batches, received_utc_ms), "append", properties)

    def replace_statistics(self, name: str, table: pa.Table, events_version: int) -> None:
        """Replace a statistics table, and note of which version of the events it is."""
        properties = CommitProperties(custom_metadata={"events_version": str(events_version)})
        self._commit(name, table, "overwrite", properties)

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

    def version(self, name: str) -> int:
        """Return the newest version of a table, -1 if there is none."""
        table = self._open(name)
        return int(table.version()) if table else -1

    def events_version_of(self, name: str) -> int:
        """Return the version of the events that a statistics table was computed from.

        -1 if there is no such table.
        """
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
        mode: Literal["append", "overwrite"],
        properties: CommitProperties,
    ) -> None:
        path = self._root / name
        grows = mode == "append"
        try:
            # A table that is not there yet is made by the same call.
            # A lake of an earlier version gets the columns that it lacks.
            write_deltalake(
                self._uri(name),
                table,
                mode=mode,
                partition_by=["arrival_date"] if grows else None,
                commit_properties=properties,
                schema_mode="merge" if grows else "overwrite",
            )
            sync_commit(path, DeltaTable(self._uri(name)).version())
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
