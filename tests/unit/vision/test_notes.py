"""Notes on the wire: tolerant to read, and never mixed with events."""

import json
import zlib
from collections.abc import Callable

import pytest

from vision.errors import WireError
from vision.events import Batch, ItemEvent
from vision.notes import Note
from vision.wire import decode_batch, encode_batch

MakeNote = Callable[..., Note]


def test_notes_travel_as_a_batch_of_their_own(make_note: MakeNote) -> None:
    notes = ((1, make_note(temperature_c=50.5, extra={"wind": 3})), (4, make_note(kind="emptied")))
    batch = Batch("o", "b", 0, (), 7, "boot", True, notes)
    assert decode_batch(encode_batch(batch)) == batch
    assert (batch.numbers, batch.last_seq) == ((1, 4), 4)


def test_an_older_bin_sends_fewer_fields_and_a_newer_one_more() -> None:
    clock = {"wall_utc_ms": 1, "monotonic_ms": 2, "boot_id": "b", "clock_synced": False}
    assert Note.from_dict({"kind": "status", **clock}).camera == "ok"
    assert Note.from_dict({"kind": "status", **clock, "later": 1}).extra == {"later": 1}
    with pytest.raises(WireError, match="note field 'kind' is 'None'"):
        Note.from_dict(clock)
    with pytest.raises(WireError, match="note field 'temperature_c'"):
        Note.from_dict({"kind": "status", **clock, "temperature_c": "hot"})


def test_a_note_that_cannot_be_read_is_refused_by_its_number(
    make_note: MakeNote, make_event: Callable[..., ItemEvent]
) -> None:
    batch = Batch("o", "b", 0, (), takes_refusals=True, notes=((1, make_note()), (2, make_note())))
    document = json.loads(zlib.decompress(encode_batch(batch)))
    document["notes"][0]["camera"] = 5
    read = decode_batch(zlib.compress(json.dumps(document).encode()))
    assert (read.numbers, read.refused) == ((2,), (1,))
    assert "note field 'camera'" in read.refusal
    document["events"] = [{"seq": 1, **make_event().to_dict()}]
    with pytest.raises(WireError, match="events or notes, not both"):
        decode_batch(zlib.compress(json.dumps(document).encode()))


def test_problems_are_what_is_not_as_it_should_be(make_note: MakeNote) -> None:
    assert make_note().problems() == {}
    wrong = make_note(camera="it is dark", hazard="a battery", throttled="under voltage")
    assert wrong.problems() == {
        "camera": "it is dark",
        "hazard": "a battery",
        "throttled": "under voltage",
    }
