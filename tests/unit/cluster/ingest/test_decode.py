"""The fast way of decoding and the tolerant one take and refuse the same."""

import json
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.ingest import decode as module
from cluster.ingest.decode import decode
from vision.errors import WireError
from vision.events import Batch, ItemEvent
from vision.wire import decode_batch, encode_batch

Make = Callable[..., ItemEvent]
_ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53, 2**63 - 1, 2**63, -(2**63), -1, 0, 10**400]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["é" * 251, "x" * 1000, "x" * 1001, "\ud800", ""]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def _taken(how: Callable[[bytes], Batch], body: bytes) -> Batch | None:
    try:
        return _plain(how(body))
    except WireError:
        return None


def _plain(batch: Batch) -> Batch:
    """Return a batch whose events are made of the fields that they have."""
    names = [field.name for field in fields(ItemEvent)]
    events = (
        (seq, ItemEvent(**{name: getattr(event, name) for name in names}))
        for seq, event in batch.events
    )
    return replace(batch, events=tuple(events))


def _document(make_event: Make) -> dict[str, Any]:
    batch = Batch("o1", "bin-1", 2, ((1, make_event()), (4, make_event(label="paper"))), 5, "boot")
    document: dict[str, Any] = json.loads(zlib.decompress(encode_batch(batch)))
    return document


def test_what_this_version_sends_takes_the_fast_way(
    make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch("o1", "bin-1", 2, ((1, make_event()), (4, make_event())), 5, "boot")
    body = encode_batch(batch)
    monkeypatch.setattr(module, "decode_batch", lambda _: 1 / 0)
    assert _plain(decode(body)) == batch


def test_a_field_of_a_newer_bin_is_kept(make_event: Make) -> None:
    batch = Batch("o1", "bin-1", 0, ((1, make_event(extra={"lid_current_ma": 310})),))
    assert decode(encode_batch(batch)) == batch


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(st.data())
def test_both_ways_take_and_refuse_the_same(make_event: Make, data: st.DataObject) -> None:
    document = _document(make_event)
    events = document["events"]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([document, *events]))
        name = data.draw(st.sampled_from([*place, "new_field"]))
        if data.draw(st.booleans()):
            place.pop(name, None)
        elif name != "events":
            place[name] = data.draw(_ODD)
        else:
            place[name] = data.draw(st.sampled_from([[], [1], None, events[::-1]]))
    body = zlib.compress(json.dumps(document).encode())
    assert _taken(decode, body) == _taken(decode_batch, body)


@pytest.mark.parametrize(
    "text",
    [
        b'{"schema": "binsight.batch/1", "schema": "binsight.batch/2"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"NaN",
        b"",
    ],
)
def test_what_is_no_batch_is_refused_by_both(text: bytes) -> None:
    body = zlib.compress(text)
    for how in (decode, decode_batch):
        with pytest.raises(WireError):
            how(body)
