"""A bin's day as the batch that the bin would send."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.simulator.city import DAY_MS, LABELS, BinDay, City
from vision.events import Batch, ItemEvent
from vision.signature import Subject
from vision.wire import MAX_BATCH_EVENTS, encode_batch

# A board that nobody told the time believes in the day of its image.
_WRONG_CLOCK_UTC_MS = 1_000_000_000_000
_MODELS = ("a" * 64, "b" * 64)
_STREAMS = {"cardboard": "paper", "paper": "paper", "glass": "glass", "metal": "packaging"}
_STREAMS |= {"plastic": "packaging", "trash": "residual"}


@dataclass(frozen=True, slots=True)
class Parcel:
    """An encoded batch.

    Attributes:
        body: as it goes to the hub.
        subject: what a signature says that it is about.
        events: how many it holds.
    """

    body: bytes
    subject: Subject
    events: int


def parcels(
    city: City, day: BinDay, first_seq: int, dropped: int, sent_utc_ms: int
) -> list[Parcel]:
    """Return the batches of a bin's day; dropped items have a number and are not in them.

    Args:
        city: whose bin.
        day: what it saw.
        first_seq: number of the first item.
        dropped: items that this bin has dropped in its whole life, this day's included.
        sent_utc_ms: when it is sent.
    """
    kept = np.flatnonzero(~day.dropped)
    return [
        _parcel(city, day, kept[i : i + MAX_BATCH_EVENTS], first_seq, dropped, sent_utc_ms)
        for i in range(0, len(kept), MAX_BATCH_EVENTS)
    ]


def _parcel(
    city: City,
    day: BinDay,
    kept: NDArray[np.int64],
    first_seq: int,
    dropped: int,
    sent_utc_ms: int,
) -> Parcel:
    bin_id = city.bin_id(day.number)
    wrong = bool(city.wrong_clock[day.number])
    booted_ms = city.plan.first_utc_ms - DAY_MS
    shift = _WRONG_CLOCK_UTC_MS - booted_ms if wrong else 0
    head, event = _template(bin_id, dropped, sent_utc_ms - booted_ms, not wrong, day)
    times = day.utc_ms[kept]
    labels = [LABELS[i] for i in day.reported[kept].tolist()]
    unsure = day.unsure[kept].tolist()
    columns = zip(
        (kept + first_seq).tolist(),
        (times + shift).tolist(),
        (times - booted_ms).tolist(),
        labels,
        day.confidence[kept].tolist(),
        ["unsure" if one else "known" for one in unsure],
        ["residual" if no else _STREAMS[la] for no, la in zip(unsure, labels, strict=True)],
        strict=True,
    )
    rows = ",".join([event % row for row in columns])
    body = zlib.compress(head.replace('"events":[]', f'"events":[{rows}]').encode(), 1)
    first = int(kept[0]) + first_seq
    return Parcel(body, Subject(_outbox(bin_id), first, int(kept[-1]) + first_seq), len(kept))


def _outbox(bin_id: str) -> str:
    return f"outbox-{bin_id}"


def _template(
    bin_id: str, dropped: int, sent_ms: int, synced: bool, day: BinDay
) -> tuple[str, str]:
    """Return the JSON of a batch without events, and that of an event with places to fill in.

    They are made of the protocol's own encoder, so that they cannot fall behind it.
    """
    event = ItemEvent(
        wall_utc_ms=_PLACES[1],
        monotonic_ms=_PLACES[2],
        boot_id="boot",
        clock_synced=synced,
        model_digest=_MODELS[day.new_model],
        rule_book="eu-low",
        rule_book_version="1",
        label="LABEL",
        confidence=0.777777,
        margin=0.5,
        second_label="trash",
        unknown_score=0.1,
        decision="DECISION",
        stream="STREAM",
        reason="simulated",
        outcome="moved",
        preprocess_ms=1.5,
        inference_ms=20.0,
        total_ms=25.0,
        brightness=day.brightness,
        sharpness=300.0,
        energy_mj=125.0,
    )
    batch = Batch(_outbox(bin_id), bin_id, dropped, ((_PLACES[0], event),), sent_ms, "boot", True)
    document = json.loads(zlib.decompress(encode_batch(batch)))
    [row] = document.pop("events")
    text = json.dumps(row, separators=(",", ":"))
    for place in _PLACES:
        text = text.replace(str(place), "%d", 1)
    text = text.replace('"LABEL"', '"%s"').replace("0.777777", "%r")
    text = text.replace('"DECISION"', '"%s"').replace('"STREAM"', '"%s"')
    return json.dumps({**document, "events": []}, separators=(",", ":")), text


# Numbers that stand where an event's own are filled in.
_PLACES = (7_777_771, 7_777_772, 7_777_773)
