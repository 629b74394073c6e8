"""What the bin tells the hub of itself: a status now and then, and that it was emptied.

Who empties it says so with `binsight edge emptied`, by hand or from the script of a door switch.
"""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path

from edge_runtime.bin import Timing
from edge_runtime.config import EdgeConfig
from edge_runtime.delivery import Delivery
from edge_runtime.pipeline import Pipeline
from edge_runtime.services.health import HealthReport
from vision.errors import StorageError
from vision.files import write_atomically
from vision.notes import Note, NoteKind

log = logging.getLogger(__name__)

# Somebody says that the bin was emptied; gone when the note is stored.
_ASKED_NAME = "emptied.txt"
# The last event before the bin was emptied.
_MARK_NAME = "emptied.json"
# What comes and goes must not fill the outbox.
_CHANGE_PAUSE_MS = 60_000.0


class Notes:
    """Writes notes. A service: see `step`.

    Args:
        config: of the bin: its state folder, and how often a status is sent.
        pipeline: gives the clock, the model and the rule book.
        delivery: takes the notes.
        report: how the bin is.
        timing: how often it looks whether something has changed.
    """

    def __init__(
        self,
        config: EdgeConfig,
        pipeline: Pipeline,
        delivery: Delivery,
        report: HealthReport,
        timing: Timing,
    ) -> None:
        self._state = config.state
        self._interval_ms = 1000 * config.status_interval_s
        self._pipeline = pipeline
        self._delivery = delivery
        self._report = report
        self._emptied_after = _read_mark(config.state)
        self._problems: frozenset[str] = frozenset()
        self._due_ms = 0.0
        self._change_due_ms = 0.0
        self._failed = ""
        self.period_ms = timing.health_ms

    def step(self, now_ms: float) -> None:
        """Write what is due; what the disk does not take is tried again.

        Raises:
            OSError: it is not known on the disk that the bin was emptied.
        """
        if (self._state / _ASKED_NAME).exists() and self._append(self._note(NoteKind.EMPTIED)):
            self._emptied_after = self._delivery.last_event()
            _write_mark(self._state, self._emptied_after)
            (self._state / _ASKED_NAME).unlink()
            self._due_ms = 0.0
        if not self._interval_ms or self._report.current().camera == "starting":
            return
        note = self._note(NoteKind.STATUS)
        problems = frozenset(note.problems())
        changed = problems != self._problems and now_ms >= self._change_due_ms
        if (changed or now_ms >= self._due_ms) and self._append(note):
            self._problems = problems
            self._due_ms = now_ms + self._interval_ms
            self._change_due_ms = now_ms + _CHANGE_PAUSE_MS

    def _append(self, note: Note) -> bool:
        """Store a note; return whether it is stored."""
        try:
            self._delivery.append_note(note)
        except StorageError as error:
            if str(error) != self._failed:  # once: a disk may be full for weeks
                log.error("notes: %s", error)
            self._failed = str(error)
            return False
        self._failed = ""
        return True

    def _note(self, kind: NoteKind) -> Note:
        health = self._report.current()
        parts = self._pipeline.parts
        now = parts.clock.now()
        outbox_id, last = self._delivery.last_event()
        before_id, before = self._emptied_after
        return Note(
            kind=kind.value,
            wall_utc_ms=now.wall_utc_ms,
            monotonic_ms=int(now.monotonic_ms),
            boot_id=now.boot_id,
            clock_synced=now.clock_synced,
            after_outbox_id=outbox_id,
            after_seq=last,
            items_since_emptied=last - before if outbox_id == before_id else last,
            software=version("binsight"),
            model=health.model,
            model_digest=parts.classifier.digest,
            rule_book=parts.rules.id,
            rule_book_version=parts.rules.version,
            camera=_short(health.camera),
            chute=_short(health.chute),
            lid=_short(health.lid),
            storage=_short(health.storage or "ok"),
            settings=_short(health.settings),
            hazard=_short(health.hazard),
            alarm=_short(health.alarm or health.alarm_failed),
            waiting_events=health.outbox_depth,
            outbox_full_pct=health.outbox_full_pct,
            dropped=health.dropped,
            quarantined=health.quarantined,
            unrecorded=health.unrecorded,
            faults=health.faults,
            blind_openings=health.blind_openings,
            uptime_s=health.uptime_s,
            disk_free_mb=health.disk_free_mb,
            resident_mb=health.resident_mb,
            temperature_c=health.temperature_c,
            throttled=_short(health.throttled),
            energy_wh=health.energy_wh,
        )


def ask_for_emptied(state: Path) -> None:
    """Take note that somebody has emptied the bin; the bin passes it on.

    Raises:
        OSError: the disk does not take it.
    """
    write_atomically(state / _ASKED_NAME, b"")


def _short(text: str) -> str:
    """Return a text that a note can hold."""
    return text[:250]


def _write_mark(state: Path, last_event: tuple[str, int]) -> None:
    outbox_id, number = last_event
    document = {"outbox_id": outbox_id, "seq": number}
    write_atomically(state / _MARK_NAME, json.dumps(document).encode())


def _read_mark(state: Path) -> tuple[str, int]:
    """Return outbox and number of the last event before the bin was emptied; ("", 0) if unknown."""
    try:
        document = json.loads((state / _MARK_NAME).read_bytes())
        return str(document["outbox_id"]), int(document["seq"])
    except FileNotFoundError:
        return "", 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("%s: it is counted from the outbox's beginning (%s)", _MARK_NAME, error)
        return "", 0
