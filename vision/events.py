"""ItemEvent and the wire: what a bin tells the hub, and how.

An event has no id of its own. The outbox numbers it, and (outbox_id, seq) is its key: it needs no clock, no network and
no random number. The wire is JSON compressed with zlib; it is tolerant: a field that this version does not know is kept
in `extra` and passed on, for a newer bin talks to an older hub. No picture is ever in an event.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vision.errors import WireError

BATCH_SCHEMA = "binsight.batch/1"
RECEIPT_SCHEMA = "binsight.receipt/1"
REFUSAL_SCHEMA = "binsight.refusal/1"
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH_EVENTS = 10_000
MAX_TEXT_BYTES = 1000
_MAX_SEQ = 2**53
_MAX_INT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """One item that a bin handled. Flat: one field is one column of the lake.

    Attributes:
        wall_utc_ms: wall clock of the bin; worth as much as `clock_synced` says.
        monotonic_ms, boot_id: order within one start of the bin, whatever the wall clock did.
        clock_synced: True if the wall clock was known to be set.
        model_digest: sha256 of the bundle file.
        rule_book, rule_book_version: the local law that chose the stream.
        label, confidence, margin, second_label, unknown_score: see vision.decision.Prediction.
        decision: one of vision.decision.KINDS.
        stream: where the item went: the rule book's stream, or its fallback where the lid would not open.
        reason: the decision's one line.
        outcome: what the actuator did: "moved", or "fault: ..." in words.
        preprocess_ms, inference_ms, total_ms: stage times; total is frame to lid command.
        brightness: mean grey level of the frame, 0..255.
        sharpness: variance of the Laplacian of the frame's grey levels; low is blurred.
        looks: frames of the item that the prediction was made of.
        energy_mj: estimate of what the item cost the board, millijoules; 0 where it is not estimated.
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
    looks: int = 1
    energy_mj: float = 0.0
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
            if kind is float and type(value) is int and abs(value) <= _MAX_INT:
                value = float(value)
            if type(value) is not kind or not _storable(value):
                raise WireError(f"event field {name!r} is {str(value)[:80]!r}; {kind.__name__} expected")
            values[name] = value
        extra = {k: v for k, v in document.items() if k not in _EVENT_TYPES and k != "extra"}
        if not _json_storable(extra):
            raise WireError("an unknown event field cannot be stored as JSON text")
        return cls(**values, extra=extra)


def _json_storable(extra: Mapping[str, Any]) -> bool:
    try:
        return len(json.dumps(extra, ensure_ascii=False, allow_nan=False).encode()) <= 16 * MAX_TEXT_BYTES
    except (ValueError, RecursionError):
        return False


def _storable(value: Any) -> bool:
    """Return whether a lake's column can hold a value: 64-bit, finite, and text that is short and encodes as UTF-8."""
    if isinstance(value, int):
        return abs(value) <= _MAX_INT
    if isinstance(value, float):
        return math.isfinite(value)
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
_EVENT_DEFAULTS = {f.name: f.default for f in fields(ItemEvent) if f.name in ("looks", "energy_mj")}


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one outbox, as one request.

    Attributes:
        outbox_id: identity of the durable queue; a new one after the bin's disk was replaced.
        bin_id: name that the operator gave the bin.
        dropped: events this outbox had to drop in its whole life because it was full.
        events: (seq, event), seq strictly rising from 1 on in the life of the outbox.
        sent_monotonic_ms, sent_boot_id: the bin's own clock when it sent this batch: from it the hub dates the events
            of a bin whose wall clock was never set. -1 and "" from a bin that does not say.
    """

    outbox_id: str
    bin_id: str
    dropped: int
    events: tuple[tuple[int, ItemEvent], ...]
    sent_monotonic_ms: int = -1
    sent_boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The hub's word that all events of this outbox up to `acked_seq` are durable."""

    outbox_id: str
    acked_seq: int


def encode_batch(batch: Batch) -> bytes:
    """Return the compressed wire form of a batch."""
    document = {
        "schema": BATCH_SCHEMA,
        "outbox_id": batch.outbox_id,
        "bin_id": batch.bin_id,
        "dropped": batch.dropped,
        "sent_monotonic_ms": batch.sent_monotonic_ms,
        "sent_boot_id": batch.sent_boot_id,
        "events": [{"seq": seq, **event.to_dict()} for seq, event in batch.events],
    }
    return zlib.compress(json.dumps(document, separators=(",", ":"), allow_nan=False).encode(), 6)


def decode_batch(body: bytes) -> Batch:
    """Check and build a batch from untrusted bytes.

    Raises:
        WireError: not zlib, larger than MAX_BATCH_BYTES when unpacked, not JSON, of another schema, or malformed.
    """
    document = _inflate_json(body)
    if not isinstance(document, dict) or document.get("schema") != BATCH_SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else None
        raise WireError(f"batch schema is {schema!r}; this hub reads {BATCH_SCHEMA!r}")
    outbox_id, bin_id = document.get("outbox_id"), document.get("bin_id")
    dropped, rows = document.get("dropped"), document.get("events")
    for name, text in (("outbox_id", outbox_id), ("bin_id", bin_id)):
        if not isinstance(text, str) or not 1 <= len(text) <= 128 or not _storable(text):
            raise WireError(f"batch field {name!r} is {str(text)[:140]!r}; a text of 1 to 128 characters expected")
    if type(dropped) is not int or not 0 <= dropped < _MAX_SEQ:
        raise WireError(f"batch field 'dropped' is {dropped!r}; a count expected")
    sent_ms, boot_id = document.get("sent_monotonic_ms", -1), document.get("sent_boot_id", "")
    if (
        type(sent_ms) is not int
        or not -1 <= sent_ms < _MAX_SEQ
        or not isinstance(boot_id, str)
        or not _storable(boot_id)
    ):
        raise WireError("batch fields 'sent_monotonic_ms' and 'sent_boot_id' must be milliseconds and a text")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH_EVENTS:
        raise WireError(f"batch field 'events' must be a list of 1 to {MAX_BATCH_EVENTS} events")
    events, last = [], 0
    for row in rows:
        if not isinstance(row, dict):
            raise WireError("an event is not an object")
        seq = row.pop("seq", None)
        if type(seq) is not int or not last < seq < _MAX_SEQ:
            raise WireError(f"event seq {seq!r} after {last}: numbers must rise")
        events.append((seq, ItemEvent.from_dict(row)))
        last = seq
    return Batch(str(outbox_id), str(bin_id), dropped, tuple(events), sent_ms, boot_id)


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the JSON form of a receipt."""
    return json.dumps({"schema": RECEIPT_SCHEMA, **asdict(receipt)}).encode()


def decode_receipt(body: bytes) -> Receipt:
    """Check and build a receipt; a web page in place of the hub's answer is an error, not an acknowledgement.

    Raises:
        WireError: not a receipt.
    """
    try:
        document = json.loads(body)
        if document["schema"] != RECEIPT_SCHEMA or type(document["acked_seq"]) is not int:
            raise WireError("not a binsight receipt")
        return Receipt(str(document["outbox_id"]), document["acked_seq"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"the answer is not a binsight receipt: {body[:80]!r}") from error


def encode_refusal(reason: str) -> bytes:
    """Return what a hub answers to content that it will never take."""
    return json.dumps({"schema": REFUSAL_SCHEMA, "error": reason}).encode()


def is_refusal(body: bytes) -> bool:
    """Return whether a hub of ours has judged the content; a proxy's error page is no judgement."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == REFUSAL_SCHEMA


def _inflate_json(body: bytes) -> Any:
    # The stream's declared sizes are not trusted: the cap holds on what actually comes out.
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, MAX_BATCH_BYTES)
    except zlib.error as error:
        raise WireError(f"the body is not zlib data ({error})") from error
    if inflater.unconsumed_tail:
        raise WireError(f"the batch unpacks to more than {MAX_BATCH_BYTES} bytes")
    if not inflater.eof:
        raise WireError("the body is cut short")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the batch is not JSON ({error})") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
