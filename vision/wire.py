"""The protocol between bin and hub: paths, topics, limits, statuses and the codec.

A batch is JSON compressed with zlib. Bin and hub import everything they must agree on from here;
nothing here opens a connection.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from vision.errors import WireError
from vision.events import Batch, ItemEvent, Receipt
from vision.notes import Note
from vision.record import storable

R = TypeVar("R")

BATCH_SCHEMA = "binsight.batch/1"
RECEIPT_SCHEMA = "binsight.receipt/1"
REFUSAL_SCHEMA = "binsight.refusal/1"

# HTTP: one POST of a compressed batch; one POST of a bin's public key.
INGEST_PATH = "/v1/batches"
KEYS_PATH = "/v1/keys"
MEDIA_TYPE = "application/vnd.binsight.batch+json+zlib"
# MQTT 5: the path of a request is its topic, the hub's answer goes to one of the bin's own.
TOPICS = {INGEST_PATH: "binsight/batches", KEYS_PATH: "binsight/keys"}
ANSWERS_TOPIC = "binsight/answers"
ANSWER_TOPIC = re.compile(r"binsight/answers/[0-9a-f]{1,64}")

# Limits of one batch: as sent, and unpacked.
MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH_EVENTS = 10_000
MAX_ANSWER_BYTES = 64 * 1024
# Events that a receipt refuses one by one; of more the whole batch is refused.
MAX_REFUSED = 1000
MAX_SEQ = 2**53

# With a refusal as the body the answer is about the content: no other bin or time will change it.
CONTENT_REFUSED = (400, 413, 422)
KEY_REFUSED = (401, 403)


def bearer(token: str) -> str:
    """Return the value of the Authorization header, and of the MQTT user property."""
    return f"Bearer {token}"


def encode_batch(batch: Batch) -> bytes:
    """Return the compressed wire form of a batch."""
    document: dict[str, Any] = {
        "schema": BATCH_SCHEMA,
        "outbox_id": batch.outbox_id,
        "bin_id": batch.bin_id,
        "dropped": batch.dropped,
        "sent_monotonic_ms": batch.sent_monotonic_ms,
        "sent_boot_id": batch.sent_boot_id,
        "takes_refusals": batch.takes_refusals,
        "events": [{"seq": seq, **event.to_dict()} for seq, event in batch.events],
    }
    if batch.notes:
        document["notes"] = [{"seq": seq, **note.to_dict()} for seq, note in batch.notes]
    return zlib.compress(json.dumps(document, separators=(",", ":"), allow_nan=False).encode(), 6)


def decode_batch(body: bytes) -> Batch:
    """Check and build a batch from untrusted bytes.

    Raises:
        WireError: not zlib, larger than MAX_BATCH_BYTES when unpacked, not JSON, of another schema,
            or malformed.
    """
    document = _inflate_json(body)
    if not isinstance(document, dict) or document.get("schema") != BATCH_SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else None
        raise WireError(f"batch schema is {schema!r}; this hub reads {BATCH_SCHEMA!r}")
    outbox_id = document.get("outbox_id")
    bin_id = document.get("bin_id")
    dropped = document.get("dropped")
    for name, text in (("outbox_id", outbox_id), ("bin_id", bin_id)):
        if not isinstance(text, str) or not 1 <= len(text) <= 128 or not storable(text):
            raise WireError(
                f"batch field {name!r} is {str(text)[:140]!r}; a text of 1 to 128 characters "
                "expected"
            )
    if type(dropped) is not int or not 0 <= dropped < MAX_SEQ:
        raise WireError(f"batch field 'dropped' is {dropped!r}; a count expected")
    sent_ms = document.get("sent_monotonic_ms", -1)
    boot_id = document.get("sent_boot_id", "")
    if (
        type(sent_ms) is not int
        or not -1 <= sent_ms < MAX_SEQ
        or not isinstance(boot_id, str)
        or not storable(boot_id)
    ):
        raise WireError(
            "batch fields 'sent_monotonic_ms' and 'sent_boot_id' must be milliseconds and a text"
        )
    takes_refusals = document.get("takes_refusals", False)
    if type(takes_refusals) is not bool:
        raise WireError("batch field 'takes_refusals' must be true or false")
    events, notes, refusals = _read_content(document)
    readable = events or notes
    if refusals and (not takes_refusals or not readable or len(refusals) > MAX_REFUSED):
        raise WireError(next(iter(refusals.values())))
    return Batch(
        str(outbox_id),
        str(bin_id),
        dropped,
        tuple(events),
        sent_ms,
        boot_id,
        takes_refusals,
        tuple(notes),
        tuple(refusals),
        next(iter(refusals.values()), ""),
    )


def _read_content(
    document: Mapping[str, Any],
) -> tuple[list[tuple[int, ItemEvent]], list[tuple[int, Note]], dict[int, str]]:
    """Return the events, or the notes, that can be read, and by number why others cannot.

    Raises:
        WireError: there are none, too many, or both; or their numbers do not rise.
    """
    events = document.get("events")
    notes = document.get("notes")
    if events and notes:
        raise WireError("a batch holds events or notes, not both")
    what, rows = ("notes", notes) if notes else ("events", events)
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH_EVENTS:
        raise WireError(f"batch field {what!r} must be a list of 1 to {MAX_BATCH_EVENTS} {what}")
    if notes:
        read_notes, refusals = _read_all(rows, Note.from_dict)
        return [], read_notes, refusals
    read_events, refusals = _read_all(rows, ItemEvent.from_dict)
    return read_events, [], refusals


def _read_all(
    rows: list[object], read: Callable[[Mapping[str, Any]], R]
) -> tuple[list[tuple[int, R]], dict[int, str]]:
    """Return the records that can be read, and by number why the others cannot.

    Raises:
        WireError: the numbers do not rise, so no record can be refused by its number.
    """
    found = []
    refusals: dict[int, str] = {}
    last = 0
    for row in rows:
        if not isinstance(row, dict):
            raise WireError("an event is not an object")
        seq = row.pop("seq", None)
        if type(seq) is not int or not last < seq < MAX_SEQ:
            raise WireError(f"event seq {seq!r} after {last}: numbers must rise")
        try:
            found.append((seq, read(row)))
        except WireError as error:
            refusals[seq] = str(error)
        last = seq
    return found, refusals


def encode_receipt(receipt: Receipt) -> bytes:
    """Return the JSON form of a receipt."""
    return json.dumps({"schema": RECEIPT_SCHEMA, **asdict(receipt)}).encode()


def decode_receipt(body: bytes) -> Receipt:
    """Check and build a receipt.

    A web page in place of the hub's answer is an error, not an acknowledgement.

    Raises:
        WireError: not a receipt.
    """
    try:
        document = json.loads(body)
        if document["schema"] != RECEIPT_SCHEMA or type(document["acked_seq"]) is not int:
            raise WireError("not a binsight receipt")
        refused = document.get("refused", [])
        if not all(type(seq) is int for seq in refused):
            raise WireError("not a binsight receipt")
        refusal = str(document.get("refusal", ""))
        renew_key = document.get("renew_key") is True
        return Receipt(
            str(document["outbox_id"]), document["acked_seq"], tuple(refused), refusal, renew_key
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"the answer is not a binsight receipt: {body[:80]!r}") from error


def encode_refusal(reason: str) -> bytes:
    """Return what a hub answers to content that it will never take."""
    return json.dumps({"schema": REFUSAL_SCHEMA, "error": reason}).encode()


def is_refusal(body: bytes) -> bool:
    """Return whether a hub of ours has refused the content; a proxy's error page is no refusal."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == REFUSAL_SCHEMA


def inflate(body: bytes) -> bytes:
    """Return the JSON text of a compressed batch.

    Raises:
        WireError: not zlib, cut short, or larger than MAX_BATCH_BYTES when unpacked.
    """
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
    return text


def _inflate_json(body: bytes) -> object:
    try:
        document: object = json.loads(inflate(body), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the batch is not JSON ({error})") from error
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
