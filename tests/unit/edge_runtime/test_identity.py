"""The bin's own key: a power cut or a lost answer costs no visit, and the key never leaves."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from simulators import HubDouble, ManualClock

from edge_runtime.config import HttpUplinkConfig
from edge_runtime.identity import FILE_NAME, Identity
from edge_runtime.outbox import Outbox
from edge_runtime.transports.signed import SignedTransport
from edge_runtime.transports.transport import Answer, Request
from edge_runtime.uplink import Uplink
from vision.enrolment import KeyRequest, decode_key_request, encode_key_receipt
from vision.errors import StorageError, UplinkError
from vision.events import ItemEvent, Receipt
from vision.signature import key_id_of, read_signature
from vision.wire import KEYS_PATH, decode_batch, encode_receipt, encode_refusal

Make = Callable[..., ItemEvent]


class KeyHub(HubDouble):
    """A hub that takes keys by a code or a signature, and signed batches only."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code
        self.keys: list[bytes] = []
        self.asked: list[KeyRequest] = []
        self.renew = False
        self.lose_answers = 0
        self.refuse_keys = 0

    def post(self, request: Request) -> Answer:
        if self.down:
            raise UplinkError("no network")
        try:
            return self._take_key(request) if request.path == KEYS_PATH else self._take(request)
        except PermissionError:
            return Answer(401, b'{"error": "unknown or revoked"}')

    def _take(self, request: Request) -> Answer:
        self._verified(request)
        batch = decode_batch(request.body)
        assert request.subject.outbox_id == batch.outbox_id
        self.received += [seq for seq, _ in batch.events]
        return Answer(
            200, encode_receipt(Receipt(batch.outbox_id, batch.last_seq, renew_key=self.renew))
        )

    def _take_key(self, request: Request) -> Answer:
        asked = decode_key_request(request.body)
        self.asked.append(asked)
        if self.refuse_keys:
            self.refuse_keys -= 1
            return Answer(403, b'{"error": "no"}')
        if asked.code:
            assert asked.code == self.code
        else:
            self._verified(request)
        if asked.public_key not in self.keys:
            self.keys.append(asked.public_key)
        if self.lose_answers:
            self.lose_answers -= 1
            raise UplinkError("cut")
        self.renew = False
        return Answer(200, encode_key_receipt(key_id_of(asked.public_key)))

    def _verified(self, request: Request) -> None:
        signed = read_signature(self.method, request.path, request.body, request.fields)
        assert signed is not None
        known = [k for k in self.keys if key_id_of(k) == signed.key_id]
        if not known:
            raise PermissionError
        [key] = known
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, signed.text)


@pytest.fixture
def outbox(tmp_path: Path, make_event: Make) -> Outbox:
    outbox = Outbox(tmp_path / "o.sqlite", "b")
    for _ in range(6):
        outbox.append(make_event())
    return outbox


def _uplink(folder: Path, outbox: Outbox, hub: KeyHub, code: str = "") -> Uplink:
    clock = ManualClock()
    identity = Identity(folder / FILE_NAME, "b")  # read anew, as after a power cut
    config = HttpUplinkConfig(url="http://hub", batch_events=1)
    return Uplink(outbox, SignedTransport(hub, identity, code, clock), config, clock)


def test_a_bin_enrols_once_and_signs_from_then_on(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    for _ in range(3):
        uplink = _uplink(tmp_path, outbox, hub, "CODE")
        uplink.step()
        uplink.step()
    assert (len(hub.asked), hub.received, outbox.depth()) == (1, [1, 2, 3, 4, 5, 6], 0)
    path = tmp_path / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert hub.keys[0].hex() not in path.read_text()


def test_the_same_key_is_offered_until_it_is_taken(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    hub.lose_answers = 2
    for _ in range(4):
        _uplink(tmp_path, outbox, hub, "CODE").step()
    assert {asked.public_key for asked in hub.asked} == set(hub.keys)
    assert (len(hub.keys), len(hub.asked), hub.received) == (1, 3, [1, 2])


def test_nothing_is_sent_before_the_bin_is_enrolled(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    hub.refuse_keys = 1
    uplink = _uplink(tmp_path, outbox, hub, "CODE")
    uplink.step()
    assert (hub.received, outbox.depth(), "(403)" in uplink.alarm) == ([], 6, True)
    uplink.step()
    assert (hub.received, uplink.alarm) == ([1], "")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_key_is_renewed_whatever_is_lost(tmp_path: Path, outbox: Outbox, lost: int) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.renew = True
    hub.lose_answers = lost
    for _ in range(2 + lost):
        _uplink(tmp_path, outbox, hub, "CODE").step()
    assert (len(hub.keys), hub.received) == (2, list(range(1, 4 + lost)))
    assert not Identity(tmp_path / FILE_NAME, "b").renewing


def test_a_refused_new_key_leaves_the_old_one(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.renew = True
    hub.refuse_keys = 1
    uplink = _uplink(tmp_path, outbox, hub)
    uplink.step()
    hub.renew = False
    uplink.step()
    assert (len(hub.keys), hub.received) == (1, [1, 2, 3])


def test_a_new_code_enrols_the_bin_again(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.code = "OTHER"
    for _ in range(2):
        _uplink(tmp_path, outbox, hub, "OTHER").step()
    assert ([a.code for a in hub.asked], hub.received) == (["CODE", "OTHER"], [1, 2, 3])


def test_a_portals_page_is_no_key_receipt(tmp_path: Path, outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, b"<html>")
    transport = SignedTransport(hub, Identity(tmp_path / FILE_NAME, "b"), "CODE", ManualClock())
    with pytest.raises(UplinkError, match="not a key receipt"):
        transport.post(Request(b"x"))
    assert not Identity(tmp_path / FILE_NAME, "b").enrolled


@pytest.mark.parametrize("text", ["", "{}", '{"key": "AAAA", "next": null, "code": ""}', "\0"])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(StorageError, match="give the bin a new code"):
        Identity(tmp_path / FILE_NAME, "b")


def test_a_renewal_that_the_hub_has_finished_is_noticed_whatever_the_disk_says(
    tmp_path: Path, outbox: Outbox
) -> None:
    """The hub took the new key and ended the old one, and the bin never heard of it."""
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.renew = True
    hub.lose_answers = 1
    _uplink(tmp_path, outbox, hub).step()  # asked for and taken, and the answer is lost
    del hub.keys[0]
    for _ in range(2):
        _uplink(tmp_path, outbox, hub).step()
    assert hub.received == [1, 2, 3, 4]
    assert not Identity(tmp_path / FILE_NAME, "b").renewing


def test_a_disk_that_takes_nothing_does_not_hold_events_up(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = KeyHub("CODE")
    uplink = _uplink(tmp_path, outbox, hub, "CODE")
    uplink.step()
    hub.renew = True

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("edge_runtime.identity.write_atomically", full)
        for _ in range(3):
            uplink.step()
    assert (hub.received, len(hub.keys)) == ([1, 2, 3, 4], 1)
    uplink.step()  # asked again, and now it can be kept
    uplink.step()
    assert (hub.received, len(hub.keys)) == ([1, 2, 3, 4, 5, 6], 2)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_the_answer_to_a_code_never_costs_an_event(
    tmp_path: Path, outbox: Outbox, status: int
) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, encode_refusal("not a key request"))
    clock = ManualClock()
    transport = SignedTransport(hub, Identity(tmp_path / FILE_NAME, "b"), "CODE", clock)
    config = HttpUplinkConfig(url="http://hub", batch_events=4)
    uplink = Uplink(outbox, transport, config, clock)
    for _ in range(20):
        uplink.step()
    assert (outbox.depth(), outbox.quarantined()) == (6, 0)
    assert "answer to this bin's code" in uplink.last_error


def test_a_hub_that_takes_no_keys_now_takes_events_all_the_same(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.renew = True

    def silent(_: Request) -> Answer:
        raise UplinkError("the broker forbids this topic")

    monkeypatch.setattr(hub, "_take_key", silent)
    for _ in range(3):
        _uplink(tmp_path, outbox, hub).step()
    assert hub.received == [1, 2, 3, 4]


def test_a_first_key_whose_answer_and_code_are_lost_is_still_used(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub = KeyHub("CODE")
    hub.lose_answers = 1
    _uplink(tmp_path, outbox, hub, "CODE").step()
    uplink = _uplink(tmp_path, outbox, hub)  # the code was taken out of the settings
    uplink.step()
    assert (hub.received, uplink.alarm) == ([1], "")
    assert Identity(tmp_path / FILE_NAME, "b").enrolled


def test_a_portals_page_makes_no_key_the_bins_own(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    identity = Identity(tmp_path / FILE_NAME, "b")
    identity.offer()
    answers = [Answer(401, b""), *[Answer(200, b"<html>")] * 2]

    class Portal(HubDouble):
        def post(self, request: Request) -> Answer:
            return answers.pop(0)

    SignedTransport(Portal(), identity, "", ManualClock()).post(Request(b"x"))
    assert (identity.enrolled, identity.renewing) == (True, True)


def test_a_wrong_code_is_no_wear_of_the_disk(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = KeyHub("CODE")
    hub.refuse_keys = 1000
    uplink = _uplink(tmp_path, outbox, hub, "CODE")
    uplink.step()
    uplink.step()
    written = (tmp_path / FILE_NAME).stat().st_mtime_ns
    for _ in range(20):
        uplink.step()
    assert (tmp_path / FILE_NAME).stat().st_mtime_ns == written
    assert len(hub.asked) == 22


def test_a_code_that_was_refused_at_first_does_not_end_renewals(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub = KeyHub("CODE")
    hub.refuse_keys = 1
    uplink = _uplink(tmp_path, outbox, hub, "CODE")
    uplink.step()
    uplink.step()
    hub.renew = True
    uplink.step()
    uplink.step()
    assert len(hub.keys) == 2


def test_another_spelling_of_the_same_code_is_the_same_code(tmp_path: Path, outbox: Outbox) -> None:
    hub = KeyHub("AB-CD")
    _uplink(tmp_path, outbox, hub, "AB-CD").step()
    _uplink(tmp_path, outbox, hub, "ab cd").step()
    assert (len(hub.asked), hub.received) == (1, [1, 2])


def test_a_key_that_cannot_be_kept_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hub = KeyHub("CODE")
    identity = Identity(tmp_path / "file" / FILE_NAME, "b")
    with pytest.raises(UplinkError, match="cannot be kept"):
        SignedTransport(hub, identity, "CODE", ManualClock()).post(Request(b"x"))
    assert hub.asked == []


def test_a_key_that_the_hub_does_not_know_keeps_everything_and_raises_the_alarm(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub = KeyHub("CODE")
    _uplink(tmp_path, outbox, hub, "CODE").step()
    hub.keys.clear()
    uplink = _uplink(tmp_path, outbox, hub, "CODE")
    uplink.step()
    assert (outbox.depth(), "(401)" in uplink.alarm) == (5, True)
