"""ItemEvent, Batch and Receipt: what a bin sends to the hub, and what the hub answers.

An event has no id of its own. The outbox numbers it, and (outbox_id, seq) is its key: it needs no
clock, no network and no random number. Reading is tolerant: a field that this version does not know
is kept in `extra` and passed on, because a newer bin talks to an older hub. No image is ever in an
event. How they travel is in vision.wire; docs/events.md lists the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vision.notes import Note
from vision.record import read_record, record_fields, to_document


class Outcome(StrEnum):
    """What the lid did."""

    MOVED = "moved"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """One item that a bin handled; flat: one field is one column of the lake.

    Attributes:
        wall_utc_ms: wall clock of the bin; worth as much as `clock_synced` says.
        monotonic_ms: milliseconds since the bin's boot; they order the events of one boot, whatever
            the wall clock does.
        boot_id: identity of that boot.
        clock_synced: true if the wall clock was known to be set.
        model_digest: sha256 of the bundle file.
        rule_book: id of the rule book that chose the stream.
        rule_book_version: its version.
        label: the most probable label, also where the decision is unsure or unknown.
        confidence: its calibrated probability, 0..1.
        margin: confidence minus that of the second label, 0..1.
        second_label: the second most probable label.
        unknown_score: distance from the training images, 0 (typical) to 2 (opposite).
        decision: "known", "unsure", "unknown", "hazard" or "fault".
        stream: where the item went: the rule book's stream, or its fallback where the lid would not
            open.
        reason: the decision's one line.
        outcome: "moved" if the lid moved to where the rule book wanted it, otherwise "fault".
        preprocess_ms: time to make the network's input of the frames.
        inference_ms: time in the network.
        total_ms: time from the frame to the lid command.
        brightness: mean grey level of the frame, 0..255.
        sharpness: variance of the Laplacian of the frame's grey levels; low is blurred.
        frames_used: frames of the item that the prediction was made of.
        energy_mj: estimate of the energy that the item took, millijoules; 0 where it is not
            estimated.
        lid_fault: "" or what went wrong with the lid.
        extra: fields that this version does not know.
    """

    wall_utc_ms: int
    monotonic_ms: int
    boot_id: str
    clock_synced: bool
    model_digest: str
    rule_book: str
    rule_book_version: str
    label: str
    confidence: float
    margin: float
    second_label: str
    unknown_score: float
    decision: str
    stream: str
    reason: str
    outcome: str
    preprocess_ms: float
    inference_ms: float
    total_ms: float
    brightness: float
    sharpness: float
    frames_used: int = 1
    energy_mj: float = 0.0
    lid_fault: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the flat wire form, unknown fields included."""
        return to_document(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ItemEvent:
        """Check and build an event from its wire form.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(**read_record(document, _FIELDS, "event"))


_FIELDS = record_fields(ItemEvent)


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events, or notes, of one outbox, as one request.

    Attributes:
        outbox_id: identity of the durable queue; a new one after the bin's disk was replaced.
        bin_id: name that the operator gave the bin.
        dropped: events this outbox had to drop in its whole life because it was full.
        events: (seq, event), seq strictly rising from 1 on in the life of the outbox; none in a
            batch of notes.
        sent_monotonic_ms: the bin's monotonic clock when it sent this batch; with it the hub dates
            the events of a bin whose wall clock was never set. -1 if the bin does not send it.
        sent_boot_id: the boot in which the batch was sent; "" if the bin does not send it.
        takes_refusals: the bin understands a receipt that refuses single events.
        notes: (seq, note), likewise; a bin's notes have an outbox of their own.
        refused: numbers of events that could not be read, rising; the reader's own remark.
        refusal: why, of the first of them; likewise.
    """

    outbox_id: str
    bin_id: str
    dropped: int
    events: tuple[tuple[int, ItemEvent], ...]
    sent_monotonic_ms: int = -1
    sent_boot_id: str = ""
    takes_refusals: bool = False
    notes: tuple[tuple[int, Note], ...] = ()
    refused: tuple[int, ...] = field(default=(), metadata={"sent": False})
    refusal: str = field(default="", metadata={"sent": False})

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of its events or notes, rising."""
        return tuple(seq for seq, _ in self.events or self.notes)

    @property
    def count(self) -> int:
        """Return how many events or notes it holds."""
        return len(self.events or self.notes)

    @property
    def last_seq(self) -> int:
        """Return the greatest number in the batch, refused ones included."""
        return max((*self.numbers[-1:], *self.refused[-1:]))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The hub's statement that all events of this outbox up to `acked_seq` are durable.

    Attributes:
        outbox_id: the outbox whose events were stored.
        acked_seq: greatest sequence number up to which all of them are durable, but for `refused`.
        refused: numbers of events that the hub will never take; the bin sets them aside.
        refusal: why, of the first of them.
        renew_key: the hub asks the bin to make a new key.
    """

    outbox_id: str
    acked_seq: int
    refused: tuple[int, ...] = ()
    refusal: str = ""
    renew_key: bool = False
