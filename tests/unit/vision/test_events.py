"""Events on the wire: round trip, tolerance, hostility."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision.errors import WireError
from vision.events import Batch, ItemEvent, Receipt
from vision.wire import (
    BATCH_SCHEMA,
    MAX_BATCH_BYTES,
    decode_batch,
    decode_receipt,
    encode_batch,
    encode_receipt,
)

Make = Callable[..., ItemEvent]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.text(max_size=20), st.integers(0, 2**50)),
        min_size=1,
        max_size=20,
    ),
    st.dictionaries(
        st.text(min_size=1, max_size=8).map("new_".__add__), st.integers() | st.text(), max_size=3
    ),
)
def test_round_trip_keeps_every_field(
    make_event: Make, rows: list[tuple[float, str, int]], extra: dict[str, object]
) -> None:
    events = tuple(
        (3 + 2 * i, make_event(confidence=c, reason=text, wall_utc_ms=ms, extra=extra))
        for i, (c, text, ms) in enumerate(rows)
    )
    batch = Batch("outbox", "bin", 7, events)
    assert decode_batch(encode_batch(batch)) == batch


def test_fields_of_a_newer_bin_are_kept_and_passed_on(make_event: Make) -> None:
    document = {**make_event().to_dict(), "lid_current_ma": 310}
    event = ItemEvent.from_dict(document)
    assert event.extra == {"lid_current_ma": 310}
    assert event.to_dict() == document


def _wire(**changes: object) -> bytes:
    document = {
        "schema": BATCH_SCHEMA,
        "outbox_id": "o",
        "bin_id": "b",
        "dropped": 0,
        "events": [],
        **changes,
    }
    return zlib.compress(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "cut short"),
        (b"not zlib", "not zlib"),
        (zlib.compress(b"not json"), "not JSON"),
        (zlib.compress(b"[" * 100_000), "not JSON"),
        (zlib.compress(b'{"schema": NaN}'), "not JSON"),
        (zlib.compress(b"[]"), "schema is None"),
        (zlib.compress(b"{}"), "schema is None"),
        (_wire(schema="binsight.batch/99"), "binsight.batch/99"),
        (_wire(outbox_id=""), "outbox_id"),
        (_wire(bin_id="x" * 200), "bin_id"),
        (_wire(dropped=-1), "dropped"),
        (_wire(dropped=True), "dropped"),
        (_wire(events={}), "events"),
        (_wire(), "1 to"),
        (_wire(events=[1]), "not an object"),
        (_wire(events=[{"seq": 0}]), "numbers must rise"),
        (_wire(events=[{"seq": 1}]), "event field 'wall_utc_ms' is 'None'"),
        (zlib.compress(bytes(200))[:-3], "cut short"),
    ],
)
def test_hostile_batches_are_refused_with_the_reason(body: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_batch(body)


def test_a_bomb_is_refused_at_the_cap_whatever_it_declares() -> None:
    bomb = zlib.compress(bytes(200 * 1024 * 1024), 9)
    assert len(bomb) < 250_000
    with pytest.raises(WireError, match=str(MAX_BATCH_BYTES)):
        decode_batch(bomb)


def test_wrong_type_of_a_field_names_it(make_event: Make) -> None:
    for name, wrong in (
        ("confidence", "0.9"),
        ("clock_synced", 1),
        ("wall_utc_ms", 1.5),
        ("label", None),
    ):
        with pytest.raises(WireError, match=name):
            ItemEvent.from_dict({**make_event().to_dict(), name: wrong})


def _with_bad_events(make_event: Make, bad: dict[int, object], takes_refusals: bool) -> bytes:
    batch = Batch("o", "b", 0, tuple((n, make_event()) for n in range(1, 6)))
    document = json.loads(
        zlib.decompress(encode_batch(replace(batch, takes_refusals=takes_refusals)))
    )
    for n, label in bad.items():
        document["events"][n - 1]["label"] = label
    return zlib.compress(json.dumps(document).encode())


def test_one_bad_event_costs_a_bin_that_takes_refusals_no_other(make_event: Make) -> None:
    batch = decode_batch(_with_bad_events(make_event, {2: None, 5: 7}, takes_refusals=True))
    assert [seq for seq, _ in batch.events] == [1, 3, 4]
    assert (batch.refused, batch.last_seq) == ((2, 5), 5)
    assert "'label' is 'None'" in batch.refusal
    receipt = Receipt("o", 5, batch.refused, batch.refusal)
    assert decode_receipt(encode_receipt(receipt)) == receipt


@pytest.mark.parametrize(
    ("bad", "takes_refusals"), [([2], False), ([1, 2, 3, 4, 5], True), ([1, 2, 3, 4, 5], False)]
)
def test_a_bin_that_takes_no_refusals_or_sends_nothing_good_is_refused_as_a_whole(
    make_event: Make, bad: list[int], takes_refusals: bool
) -> None:
    with pytest.raises(WireError, match="label"):
        decode_batch(_with_bad_events(make_event, dict.fromkeys(bad), takes_refusals))


def test_numbers_must_rise(make_event: Make) -> None:
    event = make_event()
    for numbers in ((2, 1), (1, 1)):
        with pytest.raises(WireError, match="rise"):
            decode_batch(encode_batch(Batch("o", "b", 0, tuple((n, event) for n in numbers))))


def test_only_a_receipt_is_a_receipt() -> None:
    receipt = Receipt("outbox", 41)
    assert decode_receipt(encode_receipt(receipt)) == receipt
    for page in (
        b"",
        b"<html>Welcome to Free WiFi</html>",
        b"{}",
        b"[]",
        b'{"schema": "x"}',
        b"null",
    ):
        with pytest.raises(WireError):
            decode_receipt(page)
