"""Note: what a bin says of itself, beside its events.

A "status" says how the bin is; it is sent every quarter of an hour, and when something changes. An
"emptied" note says that somebody has emptied it. Notes have an outbox of their own, so that they
never take an event's room, nor its number; which items came before one is in the note.

Reading is tolerant, as with events; docs/events.md lists the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vision.record import read_record, record_fields, to_document


class NoteKind(StrEnum):
    """What a note is about."""

    STATUS = "status"
    EMPTIED = "emptied"


@dataclass(frozen=True, slots=True)
class Note:
    """How a bin was at a moment; flat: one field is one column of the lake.

    Attributes:
        kind: "status", or "emptied".
        wall_utc_ms: wall clock of the bin; worth as much as `clock_synced` says.
        monotonic_ms: milliseconds since the bin's boot.
        boot_id: identity of that boot.
        clock_synced: true if the wall clock was known to be set.
        after_outbox_id: the outbox that numbers the bin's events.
        after_seq: number of its last event before this note; 0 before the first.
        items_since_emptied: events since the last "emptied" note, lost ones included; in an
            "emptied" note, how many the bin held.
        software: version of the bin's software.
        model: id of the model that decides.
        model_digest: sha256 of its bundle file.
        rule_book: id of the rule book.
        rule_book_version: its version.
        camera: "ok", or what is wrong with the camera.
        chute: "ok", or what is wrong with what lies before it.
        lid: "ok", or what went wrong with the lid last.
        storage: "ok", or what is wrong with the bin's disk.
        settings: "ok", or which settings do not hold, and why.
        hazard: "" or the last hazard that nobody has taken out.
        alarm: "" or what needs a person.
        waiting_events: events that wait for the hub.
        outbox_full_pct: how full their outbox is, 0..100.
        dropped: events that a full outbox has dropped.
        quarantined: events that the hub refused, set aside.
        unrecorded: items served since the start whose event could not be stored.
        faults: faults of the software since the start.
        blind_openings: times since the start that a bin which saw nothing opened to residual.
        uptime_s: seconds since the start.
        disk_free_mb: free room on the disk, megabytes; -1 if unknown.
        resident_mb: memory of the process, megabytes; 0 if unknown.
        temperature_c: of the processor, degrees Celsius; absent if the board does not say.
        throttled: "" or why the processor is slowed down.
        energy_wh: estimate of what computing has drawn since the start, watt hours.
        extra: fields that this version does not know.
    """

    kind: str
    wall_utc_ms: int
    monotonic_ms: int
    boot_id: str
    clock_synced: bool
    after_outbox_id: str = ""
    after_seq: int = 0
    items_since_emptied: int = 0
    software: str = ""
    model: str = ""
    model_digest: str = ""
    rule_book: str = ""
    rule_book_version: str = ""
    camera: str = "ok"
    chute: str = "ok"
    lid: str = "ok"
    storage: str = "ok"
    settings: str = "ok"
    hazard: str = ""
    alarm: str = ""
    waiting_events: int = 0
    outbox_full_pct: float = 0.0
    dropped: int = 0
    quarantined: int = 0
    unrecorded: int = 0
    faults: int = 0
    blind_openings: int = 0
    uptime_s: int = 0
    disk_free_mb: int = -1
    resident_mb: float = 0.0
    temperature_c: float | None = None
    throttled: str = ""
    energy_wh: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the flat wire form, unknown fields included."""
        return to_document(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Note:
        """Check and build a note from its wire form.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(**read_record(document, _FIELDS, "note"))

    def problems(self) -> dict[str, str]:
        """Return what is not as it should be, part by part; empty if all is well."""
        parts = ("camera", "chute", "lid", "storage", "settings")
        found = {part: str(getattr(self, part)) for part in parts if getattr(self, part) != "ok"}
        others = ("hazard", "alarm", "throttled")
        found |= {part: str(getattr(self, part)) for part in others if getattr(self, part)}
        return found


_FIELDS = record_fields(Note)
