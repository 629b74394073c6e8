"""The durable queue of the bin.

What is appended survives a power cut, what was not acknowledged stays.

SQLite through apsw (its own, current SQLite), WAL, synchronous=FULL, one connection. Bounded: when
the file has reached its size the oldest events go, and a durable counter says how many; it travels
with every batch.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import apsw

from vision.errors import StorageError, WireError
from vision.events import Batch, ItemEvent
from vision.notes import Note

T = TypeVar("T")

_PAGE_BYTES = 4096
_WAL_PAGES = 64
# NORMAL lost a tenth of the acknowledged events in power cuts.
SYNCHRONOUS = "FULL"
# Dropped at once when full, so that not every append has to drop.
_DROP_EVENTS = 64
# Quarantined events span at most so many numbers; older ones go.
_QUARANTINED = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS quarantine (
    seq INTEGER PRIMARY KEY, body TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('dropped', 0);
"""


# As bytes: a damaged text may be no UTF-8.
_OLDEST = "SELECT seq, CAST(body AS BLOB) FROM event ORDER BY seq LIMIT ?"
_PUT_BACK = """
DELETE FROM quarantine WHERE seq IN (SELECT seq FROM quarantine ORDER BY seq LIMIT ?)
RETURNING seq, CAST(body AS BLOB)
"""


def open_outbox(
    path: Path, bin_id: str, max_bytes: int, holds: type[ItemEvent] | type[Note] = ItemEvent
) -> tuple[Outbox, str]:
    """Open an outbox whatever the disk says: people wait before the bin.

    A damaged one is set aside, as .damaged, and a new one begun. Where the disk refuses (full,
    read-only), events are held in memory: see `Outbox.in_memory`.

    Returns:
        The outbox, and "" or in words what is wrong.
    """
    try:
        return Outbox(path, bin_id, max_bytes, holds=holds), ""
    except StorageError as error:
        message = str(error)
        if isinstance(error.__cause__, apsw.NotADBError | apsw.CorruptError):
            aside = path.with_suffix(".damaged")
            try:
                path.replace(aside)
                for rest in ("-wal", "-shm"):  # they belong to the damaged file
                    if (belongs := path.with_name(path.name + rest)).exists():
                        belongs.replace(aside.with_name(aside.name + rest))
                return Outbox(
                    path, bin_id, max_bytes, holds=holds
                ), f"{message}; set aside as {aside.name}, a new one is begun"
            except (OSError, StorageError) as refused:
                message = f"{message}, nor set aside ({refused})"
        return Outbox(
            None, bin_id, max_bytes, holds=holds
        ), f"{message}; events are held in memory and lost with the power"


class Outbox:
    """append, peek, ack, quarantine, requeue, depth.

    Args:
        path: database file, made if missing; None holds the events in memory.
        bin_id: name that batches carry; None: the one in the file, which must be there.
        max_bytes: size of the file at most.
        synchronous: SQLite's own setting; another one is for measuring what it costs.
        holds: what is queued: events, or notes.

    Attributes:
        outbox_id: under which the hub knows its numbers.
        in_memory: whether nothing of it outlives the process.
        max_bytes: as given.

    Raises:
        StorageError: the file cannot be opened, or is no outbox.
    """

    def __init__(
        self,
        path: Path | None,
        bin_id: str | None,
        max_bytes: int = 64 * 1024 * 1024,
        synchronous: str = SYNCHRONOUS,
        holds: type[ItemEvent] | type[Note] = ItemEvent,
    ) -> None:
        self._path = path or ":memory:"
        self._lock = threading.Lock()
        self.in_memory = path is None
        self.max_bytes = max_bytes
        self._holds = holds
        self._dropped_in_memory = 0
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = apsw.Connection(str(self._path))
            self._db.set_busy_timeout(2000)
            for pragma in (
                f"page_size={_PAGE_BYTES}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
                f"max_page_count={max_bytes // _PAGE_BYTES}",
                f"wal_autocheckpoint={_WAL_PAGES}",
                f"journal_size_limit={_WAL_PAGES * _PAGE_BYTES}",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchall()[
                0
            ]  # 0.4 ms a megabyte
            if verdict != "ok":
                raise apsw.CorruptError(str(verdict))
            self._db.execute(_SCHEMA)
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('outbox_id', ?)", (uuid.uuid4().hex,)
            )
            if bin_id is not None:
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('bin_id', ?)", (bin_id,))
            self.outbox_id = str(self._meta("outbox_id"))
            self._bin_id = bin_id or str(self._meta("bin_id"))
            if (
                self._meta("bin_id") != self._bin_id
            ):  # a card copied from another bin would give that bin's numbers again
                self.renew_id()
        except (apsw.Error, OSError) as error:
            raise StorageError(f"{self._path}: the outbox cannot be opened ({error})") from error

    def append(self, event: ItemEvent | Note) -> int:
        """Store an event or a note durably and return its number; when full, the oldest events go.

        Raises:
            StorageError: the disk refuses; the event is counted as dropped with the next one that
                can be stored.
        """
        body = json.dumps(event.to_dict(), separators=(",", ":"), allow_nan=False)
        with self._lock:
            try:
                return self._with_room(lambda: self._insert(body))
            except apsw.Error as error:
                self._dropped_in_memory += 1
                raise StorageError(
                    f"{self._path}: the event could not be stored ({error})"
                ) from error

    def move_from(self, other: Outbox) -> None:
        """Move all events of another outbox, none of them ever sent, to the end of this one.

        All or none.

        Raises:
            StorageError: the disk does not take them; the other one keeps them.
        """
        with other._guarded("read"):
            rows: list[Any] = other._db.execute("SELECT body FROM event ORDER BY seq").fetchall()
        with self._guarded("written"):
            self._with_room(lambda: self._insert_all(rows, other.dropped()))
        other._change("DELETE FROM event", ())

    def try_to_write(self) -> None:
        """Write something that changes nothing.

        Raises:
            StorageError: the disk does not take it.
        """
        with self._guarded("written"), self._transaction():
            self._add_dropped(0)

    def peek(self, limit: int) -> Batch | None:
        """Return the oldest events, at most `limit`, and leave them; None if there are none."""
        with self._guarded("read"):
            rows: list[Any] = self._db.execute(_OLDEST, (limit,)).fetchall()
            dropped = int(self._meta("dropped")) + self._dropped_in_memory
        events: list[tuple[int, ItemEvent]] = []
        notes: list[tuple[int, Note]] = []
        for seq, body in rows:
            try:
                record = self._holds.from_dict(json.loads(body))
                if isinstance(record, Note):
                    notes.append((int(seq), record))
                else:
                    events.append((int(seq), record))
            except (WireError, ValueError) as error:
                # Written by another version, or damaged: it must not hold up all that come after
                # it.
                self.quarantine(int(seq), str(error))
        if not events and not notes:
            return None
        return Batch(self.outbox_id, self._bin_id, dropped, tuple(events), notes=tuple(notes))

    def ack(self, seq: int) -> None:
        """Forget all events up to and including `seq`: the hub holds them."""
        self._change("DELETE FROM event WHERE seq <= ?", (seq,))

    def quarantine(self, seq: int, reason: str) -> None:
        """Set one event aside that the hub will never take; it is kept for a technician."""
        with self._guarded("written"):
            self._with_room(lambda: self._set_aside(seq, reason))

    def requeue(self, limit: int) -> int:
        """Move the oldest events that were set aside to the end of the queue; return how many.

        They get new numbers.

        For after an update, of the hub or of this: another version may take what one refused.

        Raises:
            StorageError: the disk or the outbox has no room; nothing has changed.
        """
        with self._guarded("written"), self._transaction():
            bodies = self._db.execute(_PUT_BACK, (limit,)).fetchall()
            self._db.executemany(
                "INSERT INTO event (body) VALUES (?)", [(body,) for _, body in sorted(bodies)]
            )
            return len(bodies)

    def last_number(self) -> int:
        """Return the greatest number ever given to an event here."""
        return self._count("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'")

    def renew_id(self) -> None:
        """Take another outbox_id, of which the hub knows no numbers; events that wait are kept."""
        with self._guarded("written"), self._transaction():
            self.outbox_id = uuid.uuid4().hex
            for key, value in (("outbox_id", self.outbox_id), ("bin_id", self._bin_id)):
                self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))

    def depth(self) -> int:
        """Return the number of events that wait."""
        return self._count("SELECT count(*) FROM event")

    def full_share(self) -> float:
        """Return how full the file is, 0..1 of its bound; room of deleted events counts as room."""
        with self._guarded("read"):
            pages, bound, free = self._pages()
        return round((pages - free) / bound, 4)

    def quarantined(self) -> int:
        """Return the number of events set aside."""
        return self._count("SELECT count(*) FROM quarantine")

    def dropped(self) -> int:
        """Return how many events were lost for want of room in the life of this outbox."""
        with self._guarded("read"):
            return int(self._meta("dropped")) + self._dropped_in_memory

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except apsw.Error as error:
                raise StorageError(
                    f"{self._path}: the outbox cannot be {what} ({error})"
                ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _with_room(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except apsw.FullError:
            if not self._at_its_bound():
                raise  # the disk is full of something else: giving up stored events would not help
            self._drop_oldest()
            return write()

    def _set_aside(self, seq: int, reason: str) -> None:
        with self._transaction():
            rows = self._db.execute(
                "DELETE FROM event WHERE seq = ? RETURNING CAST(body AS BLOB)", (seq,)
            ).fetchall()
            self._db.execute(
                "DELETE FROM quarantine WHERE seq <= (SELECT max(seq) FROM quarantine) - ?",
                (_QUARANTINED,),
            )
            self._add_dropped(self._db.changes())
            for (body,) in rows:
                self._db.execute(
                    "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (seq, body, reason[:500])
                )

    def _insert(self, body: str) -> int:
        with self._transaction():
            self._db.execute("INSERT INTO event (body) VALUES (?)", (body,))
            seq = int(self._db.last_insert_rowid())
            if self._dropped_in_memory:
                self._add_dropped(self._dropped_in_memory)
        self._dropped_in_memory = 0
        return seq

    def _insert_all(self, rows: list[Any], dropped: int) -> None:
        with self._transaction():
            self._db.executemany("INSERT INTO event (body) VALUES (?)", rows)
            self._add_dropped(dropped)

    def _at_its_bound(self) -> bool:
        # An insert needs a few free pages; less room than that is none.
        pages, bound, free = self._pages()
        return pages - free > bound - 4

    def _pages(self) -> tuple[int, ...]:
        names = ("page_count", "max_page_count", "freelist_count")
        return tuple(
            int(str(self._db.execute(f"PRAGMA {name}").fetchall()[0][0])) for name in names
        )

    def _drop_oldest(self) -> None:
        with self._transaction():
            self._db.execute(
                "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?)",
                (_DROP_EVENTS,),
            )
            self._add_dropped(self._db.changes())

    def _add_dropped(self, count: int) -> None:
        self._db.execute("UPDATE meta SET value = value + ? WHERE key = 'dropped'", (count,))

    def _change(self, sql: str, values: tuple[object, ...]) -> None:
        with self._guarded("written"):
            self._db.execute(sql, values)

    def _count(self, sql: str) -> int:
        with self._guarded("read"):
            rows: list[Any] = self._db.execute(sql).fetchall()
            return int(rows[0][0])

    def _meta(self, key: str) -> Any:  # noqa: ANN401  SQLite's own type
        return self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchall()[0][0]
