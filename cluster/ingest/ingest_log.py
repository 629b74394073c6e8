"""The ingest log: what the hub has acknowledged and the lake does not hold yet.

One SQLite file beside the lake, through apsw (its own, current SQLite), WAL, synchronous=FULL, one
connection. A group of batches and the new high-water marks of their outboxes are one transaction,
and its fsync is what a receipt stands for. It costs the same however large the lake is; why it is
here and what was measured: docs/decisions/0013-a-log-before-the-lake.md.

Of each bin it also keeps the last note of each kind, for good: the operator asks for it at once.

It knows nothing of deltalake, HTTP or the content of a group.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from cluster.lake.schema import EVENTS
from vision.errors import StorageError

# Outbox -> its bin, and its greatest event number.
Outboxes = Mapping[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Rows:
    """What is moved to one table of the lake.

    Attributes:
        table: its name.
        count: of the rows.
        data: the rows as the lake takes them.
    """

    table: str
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LastNote:
    """The last note of its kind of a bin.

    Attributes:
        bin_id, kind: whose, and which.
        received_utc_ms: when it arrived.
        noted_utc_ms: when the bin wrote it.
        body: its JSON.
    """

    bin_id: str
    kind: str
    received_utc_ms: int
    noted_utc_ms: int
    body: str


# AUTOINCREMENT: a number is never given twice, also when the log was empty in between. The lake
# knows by it what it holds.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    number INTEGER PRIMARY KEY AUTOINCREMENT, events INTEGER NOT NULL, rows BLOB NOT NULL,
    lake_table TEXT NOT NULL DEFAULT 'events');
CREATE TABLE IF NOT EXISTS damaged (
    number INTEGER PRIMARY KEY, events INTEGER NOT NULL, rows BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS last_note (
    bin_id TEXT NOT NULL, kind TEXT NOT NULL, received_utc_ms INTEGER NOT NULL,
    noted_utc_ms INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (bin_id, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    outbox_id TEXT PRIMARY KEY, bin_id TEXT NOT NULL, acked_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_WAITING = "SELECT coalesce(sum(events), 0) FROM entry WHERE lake_table = 'events'"
_OF_BEFORE = "SELECT count(*) = 0 FROM pragma_table_info('entry') WHERE name = 'lake_table'"
# The file gives its room back to the disk when its WAL is this large.
_WAL_BYTES = 64 * 1024 * 1024


class IngestLog:
    """append, first, trim; outboxes.

    Args:
        path: database file, made if missing.

    Attributes:
        log_id: identity of this file; a new file has another.
        waiting_events: events that the lake does not hold yet.

    Raises:
        StorageError: the file cannot be opened, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._guarded("opened"):
            self._db = apsw.Connection(str(path))
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                f"journal_size_limit={_WAL_BYTES}",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.execute(_SCHEMA).fetchall()
            if self._number(_OF_BEFORE):  # a log of a hub that knew no notes
                self._db.execute(
                    "ALTER TABLE entry ADD COLUMN lake_table TEXT NOT NULL DEFAULT 'events'"
                ).fetchall()
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('log_id', ?)", (uuid.uuid4().hex,)
            ).fetchall()
            [(log_id,)] = self._db.execute("SELECT value FROM meta WHERE name = 'log_id'")
            self.log_id = str(log_id)
            self.waiting_events = self._number(_WAITING)

    def outboxes(self) -> dict[str, tuple[str, int]]:
        """Return the bin of each outbox, and its greatest acknowledged event number."""
        with self._guarded("read"):
            rows = self._db.execute("SELECT outbox_id, bin_id, acked_seq FROM outbox")
            return {str(outbox_id): (str(bin_id), int(str(seq))) for outbox_id, bin_id, seq in rows}

    def last_number(self) -> int:
        """Return the greatest number that an entry ever had, 0 for a new log."""
        with self._guarded("read"):
            return self._number("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")

    def forgotten(self, table: str) -> int:
        """Return the number of the last entry for a table that this log holds no more.

        Before it holds one, or once it holds none, that is the greatest number ever given.
        """
        with self._guarded("read"):
            return self._number(
                "SELECT coalesce((SELECT min(number) - 1 FROM entry WHERE lake_table = ?), "
                "(SELECT max(seq) FROM sqlite_sequence), 0)",
                (table,),
            )

    def append(
        self, groups: Sequence[Rows], outboxes: Outboxes, notes: Sequence[LastNote] = ()
    ) -> None:
        """Store groups of rows and the marks after them, durably, all or nothing.

        Args:
            groups: one for each table.
            outboxes: of their batches: bin, and greatest number.
            notes: the last ones, of each bin and kind.

        Raises:
            StorageError: nothing may be acknowledged.
        """
        with self._guarded("written"), self._db:
            self._db.executemany(
                "INSERT INTO entry(events, rows, lake_table) VALUES (?, ?, ?)",
                [(group.count, group.data, group.table) for group in groups],
            )
            self._set_marks(outboxes)
            self._db.executemany(
                "INSERT OR REPLACE INTO last_note VALUES (?, ?, ?, ?, ?)",
                [(n.bin_id, n.kind, n.received_utc_ms, n.noted_utc_ms, n.body) for n in notes],
            )
        self.waiting_events += sum(group.count for group in groups if group.table == EVENTS)

    def last_notes(self) -> list[LastNote]:
        """Return the last note of each kind of each bin, by bin and kind."""
        with self._guarded("read"):
            return _last_notes(self._db)

    def first(self, table: str, events: int, end: int) -> list[tuple[int, bytes]]:
        """Return the oldest entries for a table, (number, rows) in rising order.

        Args:
            table: of the lake.
            events: of about so many rows.
            end: greatest number.
        """
        taken: list[tuple[int, bytes]] = []
        with self._guarded("read"):
            found = self._db.execute(
                "SELECT number, events, rows FROM entry WHERE lake_table = ? AND number <= ? "
                "ORDER BY number",
                (table, end),
            )
            for number, held, rows in found:
                taken.append((number, rows))
                events -= held
                if events <= 0:
                    break
        return taken

    def trim(self, table: str, number: int) -> None:
        """Forget the entries for a table up to a number: the lake holds them durably."""
        with self._guarded("written"):
            self._db.execute(
                "DELETE FROM entry WHERE lake_table = ? AND number <= ?", (table, number)
            ).fetchall()
            self.waiting_events = self._number(_WAITING)

    def set_aside(self, number: int) -> None:
        """Keep a damaged entry for a person to look at; it is no longer moved."""
        with self._guarded("written"), self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO damaged SELECT number, events, rows FROM entry "
                "WHERE number = ?",
                (number,),
            )

    def set_aside_entries(self) -> int:
        """Return how many entries were set aside."""
        with self._guarded("read"):
            return self._number("SELECT count(*) FROM damaged")

    def restore(self, outboxes: Outboxes, number: int) -> None:
        """Take over what the lake knows: this file is new, or older than the lake.

        Args:
            outboxes: bin, and greatest event number in the lake.
            number: entries get greater numbers from now on.
        """
        with self._guarded("written"), self._db:
            self._set_marks(outboxes)
            self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'entry'")
            self._db.execute("INSERT INTO sqlite_sequence VALUES ('entry', ?)", (number,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _set_marks(self, outboxes: Outboxes) -> None:
        self._db.executemany(
            "INSERT INTO outbox VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "acked_seq = max(acked_seq, excluded.acked_seq)",
            [(outbox_id, bin_id, seq) for outbox_id, (bin_id, seq) in outboxes.items()],
        )

    def _number(self, question: str, values: tuple[str, ...] = ()) -> int:
        [(number,)] = self._db.execute(question, values)
        return int(str(number))

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except apsw.Error as error:
                raise StorageError(
                    f"{self._path}: the ingest log cannot be {what} ({error})"
                ) from error


def copy_log(source: Path, to: Path) -> int:
    """Copy a log, also one that a hub writes, and return how many events wait in the copy.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        db = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            db.set_busy_timeout(10_000)
            db.execute("VACUUM INTO ?", (str(to),)).fetchall()
        finally:
            db.close()
        copy = apsw.Connection(str(to), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            [(events,)] = copy.execute(_WAITING)
        finally:
            copy.close()
    except apsw.Error as error:
        raise StorageError(f"{source}: the ingest log cannot be copied ({error})") from error
    return int(str(events))


def look_into_log(path: Path) -> tuple[int, int]:
    """Return how many events wait in a log, and how many entries are damaged; changes nothing.

    Raises:
        StorageError: it cannot be read.
    """
    with _looking_into(path) as db:
        [(waiting, damaged)] = db.execute(
            f"SELECT ({_WAITING}), (SELECT count(*) FROM damaged)"  # noqa: S608  a constant
        )
    return int(str(waiting)), int(str(damaged))


def last_notes(path: Path) -> list[LastNote]:
    """Return the last notes that a log holds; changes nothing.

    Raises:
        StorageError: it cannot be read.
    """
    with _looking_into(path) as db:
        return _last_notes(db)


@contextmanager
def _looking_into(path: Path) -> Iterator[apsw.Connection]:
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(10_000)
            yield db
        finally:
            db.close()
    except apsw.Error as error:
        raise StorageError(f"{path}: the ingest log cannot be read ({error})") from error


def _last_notes(db: apsw.Connection) -> list[LastNote]:
    rows = db.execute("SELECT * FROM last_note ORDER BY bin_id, kind")
    return [
        LastNote(str(bin_id), str(kind), int(str(received)), int(str(noted)), str(body))
        for bin_id, kind, received, noted, body in rows
    ]
