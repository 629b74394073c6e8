"""ItemEvent, Batch and Receipt: what a bin sends to the hub, and what the hub answers.

An event has no id of its own. The outbox numbers it, and (outbox_id, seq) is its key: it needs no
clock, no network and no random number. Reading is tolerant: a field that this version does not know
is kept in `extra` and passed on, because a newer bin talks to an older hub. No image is ever in an
event. How they travel is in vision.wire; docs/events.md lists the fields.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from vision.errors import WireError

MAX_TEXT_BYTES = 1000
_MAX_INT = 2**63 - 1
_LARGEST_FLOAT = int(sys.float_info.max)


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
        document = asdict(self)
        return {**document.pop("extra"), **document}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ItemEvent:
        """Check and build an event from its wire form.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        values: dict[str, Any] = {}
        for name, kind in _EVENT_TYPES.items():
            value = document.get(name, _EVENT_DEFAULTS.get(name))
            if kind is float and type(value) is int and abs(value) <= _LARGEST_FLOAT:
                value = float(value)
            if type(value) is not kind or not storable(value):
                raise WireError(
                    f"event field {name!r} is {str(value)[:80]!r}; {kind.__name__} expected"
                )
            values[name] = value
        extra = {}
        if len(document) > len(_EVENT_TYPES) or not document.keys() <= _EVENT_TYPES.keys():
            extra = {k: v for k, v in document.items() if k not in _EVENT_TYPES and k != "extra"}
        if extra and not _json_storable(extra):
            raise WireError("an unknown event field cannot be stored as JSON text")
        return cls(**values, extra=extra)


def _json_storable(extra: Mapping[str, Any]) -> bool:
    try:
        return (
            len(json.dumps(extra, ensure_ascii=False, allow_nan=False).encode())
            <= 16 * MAX_TEXT_BYTES
        )
    except (ValueError, RecursionError):
        return False


def storable(value: object) -> bool:
    """Return whether a lake's column can hold a value.

    It holds 64-bit integers, finite numbers, and short text that encodes as UTF-8.
    """
    if isinstance(value, str) and value.isascii() and len(value) <= MAX_TEXT_BYTES:
        return True  # nearly all are such, and there are millions
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= _MAX_INT
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= MAX_TEXT_BYTES
    except UnicodeEncodeError:
        return False


_EVENT_TYPES: dict[str, type] = {
    f.name: {"int": int, "str": str, "bool": bool, "float": float}[str(f.type)]
    for f in fields(ItemEvent)
    if f.name != "extra"
}


# Fields that older bins do not send.
_EVENT_DEFAULTS = {
    f.name: f.default
    for f in fields(ItemEvent)
    if f.name in ("frames_used", "energy_mj", "lid_fault")
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one outbox, as one request.

    Attributes:
        outbox_id: identity of the durable queue; a new one after the bin's disk was replaced.
        bin_id: name that the operator gave the bin.
        dropped: events this outbox had to drop in its whole life because it was full.
        events: (seq, event), seq strictly rising from 1 on in the life of the outbox.
        sent_monotonic_ms: the bin's monotonic clock when it sent this batch; with it the hub dates
            the events of a bin whose wall clock was never set. -1 if the bin does not send it.
        sent_boot_id: the boot in which the batch was sent; "" if the bin does not send it.
        takes_refusals: the bin understands a receipt that refuses single events.
        refused: numbers of events that could not be read, rising; the reader's own note.
        refusal: why, of the first of them; likewise.
    """

    outbox_id: str
    bin_id: str
    dropped: int
    events: tuple[tuple[int, ItemEvent], ...]
    sent_monotonic_ms: int = -1
    sent_boot_id: str = ""
    takes_refusals: bool = False
    refused: tuple[int, ...] = field(default=(), metadata={"sent": False})
    refusal: str = field(default="", metadata={"sent": False})

    @property
    def last_seq(self) -> int:
        """Return the greatest number in the batch."""
        return max((self.events[-1][0], *self.refused[-1:]))


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
