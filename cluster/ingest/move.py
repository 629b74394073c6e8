"""From the ingest log to the lake: each entry once, whatever is killed in between."""

from __future__ import annotations

import logging

import pyarrow as pa

from cluster.ingest.ingest_log import IngestLog
from cluster.lake.schema import APPENDED, rows_from_bytes
from cluster.lake.store import Lake
from vision.errors import StorageError

log = logging.getLogger(__name__)

LOG_NAME = "ingest_log.sqlite"
# So many rows go to the lake in one commit, about.
MOVED_ROWS = 200_000


def move_waiting(lake: Lake) -> int:
    """Move what a hub left in its log to the lake, unless a hub runs; return the events moved.

    Raises:
        StorageError: log or lake cannot be read or written.
    """
    if not (lake.folder / LOG_NAME).exists() or not lake.claim.try_take():
        return 0
    try:
        waiting = open_settled(lake)
        try:
            return sum(move_entries(waiting, lake, table, MOVED_ROWS) for table in APPENDED)
        finally:
            waiting.close()
    finally:
        lake.claim.release()


def open_settled(lake: Lake) -> IngestLog:
    """Open the log of a lake, and bring the two together.

    A kill may have come after the lake's commit and before the log forgot it. A log that is new, or
    older than the lake (a restored copy), learns the marks from the lake's own rows.
    """
    ingest_log = IngestLog(lake.folder / LOG_NAME)
    try:
        log_id = ingest_log.log_id
        lake.storage.own(log_id)
        moved = {name: lake.moved(log_id, ingest_log.forgotten(name), name) for name in APPENDED}
        known = ingest_log.last_number()
        greatest = max(known, *moved.values())
        # A new log looks into the lake: it may be there already.
        outboxes = lake.outboxes() if greatest > known or known == 0 else {}
        if outboxes:
            log.warning("ingest: the log is older than the lake; its marks are read from the lake")
            ingest_log.restore(outboxes, greatest)
        for name, number in moved.items():
            ingest_log.trim(name, number)
    except StorageError:
        ingest_log.close()
        raise
    return ingest_log


def move_entries(ingest_log: IngestLog, lake: Lake, table: str, most: int) -> int:
    """Move the entries that the log holds now; those that come meanwhile wait for the next time.

    Whatever goes wrong, the lake is asked what it holds before anything is tried again: a commit
    that failed may have reached the disk all the same.
    """
    moved = 0
    log_id = ingest_log.log_id
    end = ingest_log.last_number()
    ingest_log.trim(table, lake.moved(log_id, ingest_log.forgotten(table), table))
    while entries := ingest_log.first(table, most, end):
        tables = [_readable(ingest_log, number, rows) for number, rows in entries]
        found = [rows for rows in tables if rows is not None]
        last = entries[-1][0]
        if found:
            rows = pa.concat_tables(found, promote_options="default")
            lake.append(rows, log_id, last, table)
            moved += rows.num_rows
        ingest_log.trim(table, last)
        lake.maintain(table)
    return moved


def _readable(ingest_log: IngestLog, number: int, rows: bytes) -> pa.Table | None:
    """Return the rows of an entry; one that the disk has damaged is set aside."""
    try:
        return rows_from_bytes(rows)
    except (pa.ArrowException, OSError) as error:
        log.critical("ingest: entry %d of the log is damaged and set aside (%s)", number, error)
        ingest_log.set_aside(number)
        return None
