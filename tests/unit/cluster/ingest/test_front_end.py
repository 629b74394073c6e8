"""The front_end: whoever sends what is not theirs changes nothing, and each answer says why."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest, Limits
from cluster.ingest.front_end import FrontEnd, Reply, Request
from cluster.lake.store import Lake
from cluster.registry.model import Place
from cluster.registry.store import Registry
from vision.enrolment import decode_key_receipt, encode_key_request
from vision.events import Batch, ItemEvent
from vision.signature import HTTP_METHOD, MQTT_METHOD, Subject, key_id_of, sign
from vision.wire import INGEST_PATH, KEYS_PATH, bearer, decode_receipt, encode_batch

NOW = 1_790_000_000_000
Make = Callable[..., ItemEvent]


class Bin:
    """A bin at the wire, with a key of its own."""

    def __init__(self, bin_id: str) -> None:
        self.bin_id = bin_id
        self.key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def signed(
        self, body: bytes, subject: Subject, path: str = INGEST_PATH, method: str = HTTP_METHOD
    ) -> Request:
        key_id = key_id_of(self.public)
        return Request(
            method,
            path,
            body,
            sign(method, path, body, subject, key_id, NOW // 1000, self.key.sign),
        )

    def batch(self, outbox: str, numbers: range, event: ItemEvent, bin_id: str = "") -> Request:
        events = tuple((n, event) for n in numbers)
        body = encode_batch(Batch(outbox, bin_id or self.bin_id, 0, events))
        return self.signed(body, Subject(outbox, numbers[0], numbers[-1]))

    def asks(self, code: str = "", key: "Bin | None" = None) -> bytes:
        new = key or self
        return encode_key_request(self.bin_id, new.public, new.key.sign, code)


class Hub:
    """Registry, ingest and front end of one hub; each call runs to its end."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        self.registry.place([Place(b, t) for b, t in (("b1", "t1"), ("b2", "t2"))], NOW)
        self.lake = Lake(folder / "lake")
        limits = Limits(commit_interval_s=0, lake_interval_s=0)
        self.ingest = Ingest(self.lake, lambda: NOW, limits)
        self.access = Access(self.registry, lambda: NOW, **settings)
        self.front_end = FrontEnd(self.ingest, self.access)
        self.runner = asyncio.Runner()

    def enrolled(self, bin_id: str) -> Bin:
        new = Bin(bin_id)
        code = self.registry.issue_code(bin_id, NOW)
        assert self.answer(Request(HTTP_METHOD, KEYS_PATH, new.asks(code), {})).status == 200
        return new

    def answer(self, *requests: Request) -> Reply:
        async def ask() -> Reply:
            running = asyncio.create_task(self.ingest.run())
            try:
                replies = [await self.front_end.answer(request) for request in requests]
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            return replies[-1]

        return self.runner.run(ask())

    def stored(self) -> int:
        return self.lake.event_count()


Open = Callable[..., Hub]


@pytest.fixture
def hub_of(tmp_path: Path) -> Iterator[Open]:
    opened: list[Hub] = []

    def make(**settings: Any) -> Hub:
        opened.append(Hub(tmp_path, **settings))
        return opened[-1]

    yield make
    for hub in opened:
        hub.runner.close()
        hub.ingest.close()
        hub.registry.close()


def test_a_signed_batch_is_taken_without_a_token(hub_of: Open, make_event: Make) -> None:
    hub = hub_of(token="word")
    reply = hub.answer(hub.enrolled("b1").batch("o1", range(1, 4), make_event()))
    assert (reply.status, decode_receipt(reply.body).acked_seq, hub.stored()) == (200, 3, 3)


def test_the_same_signed_batch_again_changes_nothing(hub_of: Open, make_event: Make) -> None:
    hub = hub_of()
    request = hub.enrolled("b1").batch("o1", range(1, 4), make_event())
    assert hub.answer(request, request).status == 200
    assert hub.stored() == 3


@pytest.mark.parametrize("token", [None, "word"])
def test_an_unsigned_batch_of_a_bin_with_a_key_is_refused(
    hub_of: Open, make_event: Make, token: str | None
) -> None:
    hub = hub_of(token=token)
    hub.enrolled("b1")
    body = encode_batch(Batch("o1", "b1", 0, ((1, make_event()),)))
    fields = {"Authorization": bearer("word")}
    for _ in range(2):
        reply = hub.answer(Request(HTTP_METHOD, INGEST_PATH, body, fields))
        assert (reply.status, hub.stored()) == (403, 0)
        hub.registry.revoke("b1", NOW)  # and a bin whose key was ended stays shut out
        hub.access.refresh()
    other = encode_batch(Batch("o2", "b2", 0, ((1, make_event()),)))
    assert hub.answer(Request(HTTP_METHOD, INGEST_PATH, other, fields)).status == 200


def test_nobody_writes_for_another_bin_or_tenant(hub_of: Open, make_event: Make) -> None:
    hub = hub_of()
    one = hub.enrolled("b1")
    two = hub.enrolled("b2")
    event = make_event()
    assert hub.answer(one.batch("o1", range(1, 3), event)).status == 200
    attempts = {
        "another bin's name": two.batch("o9", range(1, 3), event, bin_id="b1"),
        "another bin's outbox": two.batch("o1", range(3, 9), event),
        "other numbers than were signed": replace(
            two.batch("o2", range(1, 3), event),
            fields=two.signed(b"", Subject("o2", 1, 9)).fields,
        ),
    }
    body = encode_batch(Batch("o2", "b2", 0, ((1, event),)))
    attempts["about another outbox"] = two.signed(body, Subject("o3", 1, 1))
    attempts["about other numbers"] = two.signed(body, Subject("o2", 1, 2))
    statuses = {name: hub.answer(request).status for name, request in attempts.items()}
    assert statuses == {
        "another bin's name": 403,
        "another bin's outbox": 403,
        "other numbers than were signed": 401,
        "about another outbox": 403,
        "about other numbers": 403,
    }
    assert hub.stored() == 2
    # its own further outbox is welcome, as after a replaced card
    assert hub.answer(one.batch("o4", range(1, 3), event)).status == 200


def test_a_signature_of_nobody_or_of_another_request_is_refused(
    hub_of: Open, make_event: Make
) -> None:
    hub = hub_of()
    known = hub.enrolled("b1")
    stranger = Bin("b1")
    good = known.batch("o1", range(1, 3), make_event())
    forged = known.signed(good.body, Subject("o1", 1, 2), method=MQTT_METHOD)
    for request in (
        stranger.batch("o1", range(1, 3), make_event()),
        replace(good, body=good.body + b" "),
        replace(forged, method=HTTP_METHOD),
        replace(good, fields={**good.fields, "Signature": "bin=:" + "A" * 86 + "==:"}),
        replace(good, fields={k: v for k, v in good.fields.items() if k != "Signature"}),
    ):
        assert hub.answer(request).status == 401
    assert hub.stored() == 0
    assert hub.answer(forged).status == 200


def test_a_revoked_key_ends_whatever_was_signed_with_it(hub_of: Open, make_event: Make) -> None:
    hub = hub_of()
    one = hub.enrolled("b1")
    request = one.batch("o1", range(1, 3), make_event())
    hub.registry.revoke("b1", NOW)
    hub.access.refresh()
    reply = hub.answer(request)
    assert (reply.status, hub.stored()) == (401, 0)
    assert "revoked" in json.loads(reply.body)["error"]


def test_signatures_only(hub_of: Open, make_event: Make) -> None:
    hub = hub_of(token="word", require_signatures=True)
    body = encode_batch(Batch("o1", "b9", 0, ((1, make_event()),)))
    fields = {"authorization": bearer("word")}
    assert hub.answer(Request(HTTP_METHOD, INGEST_PATH, body, fields)).status == 401
    assert hub.answer(hub.enrolled("b1").batch("o1", range(1, 2), make_event())).status == 200


def test_a_key_is_renewed_without_a_visit(hub_of: Open, make_event: Make) -> None:
    hub = hub_of()
    old = hub.enrolled("b1")
    new = Bin("b1")
    event = make_event()
    assert not decode_receipt(hub.answer(old.batch("o1", range(1, 2), event)).body).renew_key
    hub.registry.ask_for_new_key("b1")
    hub.access.refresh()
    assert decode_receipt(hub.answer(old.batch("o1", range(2, 3), event)).body).renew_key
    request = old.signed(old.asks(key=new), Subject(), KEYS_PATH)
    for _ in range(2):  # the answer may be lost
        assert decode_key_receipt(hub.answer(request).body) == key_id_of(new.public)
    assert hub.answer(old.batch("o1", range(3, 4), event)).status == 200  # good until then
    receipt = decode_receipt(hub.answer(new.batch("o1", range(4, 5), event)).body)
    assert (receipt.acked_seq, receipt.renew_key) == (4, False)
    assert not decode_receipt(hub.answer(new.batch("o1", range(5, 6), event)).body).renew_key
    assert hub.answer(old.batch("o1", range(6, 7), event)).status == 401
    assert hub.stored() == 5


def test_a_key_needs_a_code_or_a_signature_and_a_proof(hub_of: Open) -> None:
    hub = hub_of()
    one = hub.enrolled("b1")
    two = hub.enrolled("b2")
    new = Bin("b1")
    code = hub.registry.issue_code("b1", NOW)
    proofless = json.loads(new.asks(code))
    proofless["proof"] = json.loads(one.asks(code))["proof"]
    requests = {
        "no code": Request(HTTP_METHOD, KEYS_PATH, new.asks(), {}),
        "a wrong code": Request(HTTP_METHOD, KEYS_PATH, new.asks("AAAAA"), {}),
        "another bin's signature": two.signed(new.asks(), Subject(), KEYS_PATH),
        "no proof": Request(HTTP_METHOD, KEYS_PATH, json.dumps(proofless).encode(), {}),
        "no request": Request(HTTP_METHOD, KEYS_PATH, b"{}", {}),
    }
    before = hub.registry.principals()
    assert {name: hub.answer(request).status for name, request in requests.items()} == {
        "no code": 401,
        "a wrong code": 403,
        "another bin's signature": 403,
        "no proof": 401,
        "no request": 400,
    }
    assert hub.registry.principals() == before


def test_a_registry_that_fails_shows_nothing_of_itself_to_a_stranger(hub_of: Open) -> None:
    hub = hub_of()
    with hub.registry._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE enrolment_code")
    reply = hub.answer(Request(HTTP_METHOD, KEYS_PATH, Bin("b1").asks("A" * 26), {}))
    assert reply.status == 503
    assert b"SELECT" not in reply.body
    assert b"sqlite" not in reply.body


def test_a_registry_that_fails_leaves_the_known_keys(
    hub_of: Open, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hub_of()
    one = hub.enrolled("b1")
    monkeypatch.setattr("cluster.ingest.access._REFRESH_S", 0.01)

    async def run_until(condition: Callable[[], bool]) -> None:
        running: Awaitable[None] = asyncio.create_task(hub.access.run())
        while not condition():
            await asyncio.sleep(0.01)
        running.cancel()  # type: ignore[attr-defined]
        await asyncio.gather(running, return_exceptions=True)

    with hub.registry._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE registry_change RENAME TO aside")
    hub.runner.run(run_until(lambda: "new and revoked keys are not seen" in hub.access.problem))
    assert hub.answer(one.batch("o1", range(1, 2), make_event())).status == 200
    with hub.registry._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE aside RENAME TO registry_change")
    hub.runner.run(run_until(lambda: not hub.access.problem))
