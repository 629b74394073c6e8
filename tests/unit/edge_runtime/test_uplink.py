"""What each answer of the hub does to the outbox.

The hub here is a double with rules, not a mock.
"""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators import HubDouble

from edge_runtime.clock import SystemClock
from edge_runtime.config import HttpUplinkConfig
from edge_runtime.outbox import Outbox
from edge_runtime.transports.transport import Answer, Request
from edge_runtime.uplink import Uplink
from vision.events import ItemEvent, Receipt
from vision.wire import decode_batch, encode_receipt

Make = Callable[..., ItemEvent]


def _run(
    outbox: Outbox, hub: HubDouble, steps: int, batch_events: int = 8
) -> tuple[Uplink, list[float]]:
    uplink = Uplink(
        outbox, hub, HttpUplinkConfig(url="http://hub", batch_events=batch_events), SystemClock()
    )
    return uplink, [uplink.step() for _ in range(steps)]


def test_all_events_arrive_in_order_and_are_forgotten(outbox: Outbox) -> None:
    hub = HubDouble()
    _, pauses = _run(outbox, hub, 4)
    assert hub.received == list(range(1, 21))
    assert outbox.depth() == 0
    assert pauses == [0, 0, 0, 1.0]


def test_hub_down_keeps_everything_and_backs_off_with_jitter(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.down = True
    uplink, pauses = _run(outbox, hub, 12)
    assert outbox.depth() == 20
    assert uplink.last_error == "connection refused"
    for i, pause in enumerate(pauses):
        ceiling = min(0.5 * 2**i, 300)
        assert ceiling / 2 <= pause <= ceiling
    hub.down = False
    for _ in range(3):
        uplink.step()
    assert (hub.received, outbox.depth(), uplink.last_error) == (list(range(1, 21)), 0, "")


@pytest.mark.parametrize("status", [301, 404, 405, 408, 429, 500, 502, 503, 504])
def test_answers_that_say_nothing_of_the_events_never_cost_one(outbox: Outbox, status: int) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"<html>")
    _run(outbox, hub, 30)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)


def test_the_thread_survives_a_defect_and_says_so(outbox: Outbox) -> None:
    hub = HubDouble()
    failed = threading.Event()
    healthy = hub.post

    def defect(request: Request) -> Answer:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        return healthy(request)

    hub.post = defect  # type: ignore[method-assign]
    uplink = Uplink(
        outbox,
        hub,
        HttpUplinkConfig(url="http://hub", backoff_max_s=0.01, interval_s=0.01),
        SystemClock(),
    )
    uplink.start()
    assert failed.wait(5)
    while outbox.depth():
        assert uplink._thread.is_alive()
        threading.Event().wait(0.01)
    uplink.stop()
    assert hub.received == list(range(1, 21))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_keeps_everything_and_raises_the_alarm(outbox: Outbox, status: int) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"")
    uplink, _ = _run(outbox, hub, 5)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    assert {401: "refuses this bin's token", 403: "refuses this bin"}[status] in uplink.alarm
    hub.answer = None
    uplink.step()
    assert uplink.alarm == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"<html>Free WiFi</html>",
        b'{"acked_seq": 20}',
        encode_receipt(Receipt("another", 20)),
    ],
)
def test_a_200_without_this_outboxs_receipt_is_no_acknowledgement(
    outbox: Outbox, body: bytes
) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, body)
    _run(outbox, hub, 5)
    assert outbox.depth() == 20


@pytest.mark.parametrize(("asked_s", "at_least_s"), [(30, 30), (10**6, 600), (0, 0)])
def test_a_busy_hub_is_left_alone_for_as_long_as_it_asks(
    outbox: Outbox, asked_s: int, at_least_s: int
) -> None:
    hub = HubDouble()
    hub.answer = Answer(429, b"", asked_s)
    config = HttpUplinkConfig(url="http://hub", backoff_max_s=0.01)
    pause_s = Uplink(outbox, hub, config, SystemClock()).step()
    assert at_least_s <= pause_s <= max(1.5 * at_least_s, 0.01)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)


def test_events_that_a_receipt_refuses_are_set_aside_and_the_others_are_acknowledged(
    outbox: Outbox,
) -> None:
    hub = HubDouble()
    hub.answer = Answer(
        200, encode_receipt(Receipt(outbox.outbox_id, 8, (3, 5, 500), "field 'label' is 7"))
    )
    _run(outbox, hub, 1)
    assert (outbox.depth(), outbox.quarantined()) == (12, 2)
    hub.answer = None
    outbox.requeue(2)  # after an update
    _run(outbox, hub, 10)
    assert hub.received == list(range(9, 23))


def test_a_hub_that_refuses_most_events_one_by_one_has_few_set_aside_and_raises_the_alarm(
    outbox: Outbox,
) -> None:
    hub = HubDouble()
    hub.answer = Answer(
        200, encode_receipt(Receipt(outbox.outbox_id, 8, tuple(range(1, 8)), "another version"))
    )
    uplink, _ = _run(outbox, hub, 1)
    assert (outbox.depth(), outbox.quarantined()) == (12, 7)
    assert "another version" in uplink.alarm
    assert uplink._events._after_quarantine("") > 600  # it waits for a person
    hub.answer = None
    uplink.step()
    assert uplink.alarm == ""


def test_a_receipt_beyond_what_was_sent_acknowledges_only_what_was_sent(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, encode_receipt(Receipt(outbox.outbox_id, 15)))
    _run(outbox, hub, 1)
    assert outbox.depth() == 12


def test_a_receipt_for_events_that_never_were_acknowledges_nothing(outbox: Outbox) -> None:
    class Boasting(HubDouble):
        def post(self, request: Request) -> Answer:
            return Answer(200, encode_receipt(Receipt(decode_batch(request.body).outbox_id, 10**9)))

    before = outbox.outbox_id
    uplink, _ = _run(outbox, Boasting(), 1)
    once = outbox.outbox_id
    assert once != before
    uplink.step()
    assert (outbox.depth(), outbox.outbox_id) == (20, once)


def test_one_poisoned_event_is_quarantined_and_all_others_arrive(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.poison = {7}
    _run(outbox, hub, 30)
    assert hub.received == [n for n in range(1, 21) if n != 7]
    assert (outbox.depth(), outbox.quarantined()) == (0, 1)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_a_web_server_that_is_no_hub_refuses_is_kept_and_reported(
    outbox: Outbox, status: int
) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"<html>The plain HTTP request was sent to HTTPS port</html>")
    uplink, _ = _run(outbox, hub, 30)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    assert "no binsight hub" in uplink.alarm


def test_a_hub_that_refuses_everything_is_asked_ever_less_and_reported(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.poison = set(range(1, 100))
    uplink, pauses = _run(outbox, hub, 12)
    assert "the hub refuses event after event" in uplink.alarm
    assert pauses[-1] > 1
    assert outbox.depth() > 10


def test_a_hub_that_refuses_everything_for_a_week_has_few_events_set_aside(
    outbox: Outbox, make_event: Make
) -> None:
    hub = HubDouble()
    hub.poison = set(range(1, 1000))
    for _ in range(300):
        outbox.append(make_event())
    uplink = Uplink(outbox, hub, HttpUplinkConfig(url="http://hub"), SystemClock())
    waited_s = 0.0
    while waited_s < 7 * 86_400:
        waited_s += uplink.step()
    assert outbox.quarantined() <= 7 * 24 + 5
    assert outbox.depth() + outbox.quarantined() == 320


def test_a_hub_that_acknowledges_nothing_is_asked_ever_less_and_reported(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, encode_receipt(Receipt(outbox.outbox_id, 0)))
    uplink, pauses = _run(outbox, hub, 8)
    assert "acknowledges nothing" in uplink.last_error
    assert pauses[-1] > 10
    assert outbox.depth() == 20


def test_a_proxy_that_takes_less_at_once_gets_less_at_once(outbox: Outbox) -> None:
    hub = HubDouble()
    healthy = hub.post

    def proxy(request: Request) -> Answer:
        return (
            Answer(413, b"<html>nginx</html>")
            if len(decode_batch(request.body).events) > 3
            else healthy(request)
        )

    hub.post = proxy  # type: ignore[method-assign]
    _run(outbox, hub, 20)
    assert hub.received == list(range(1, 21))


def test_too_large_batches_are_halved_until_they_fit(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.largest = 3
    _run(outbox, hub, 30)
    assert (hub.received, outbox.quarantined()) == (list(range(1, 21)), 0)


def test_a_week_of_401_costs_few_requests_and_no_event(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(401, b"")
    uplink = Uplink(
        outbox, hub, HttpUplinkConfig(url="http://hub", backoff_max_s=300), SystemClock()
    )
    waited_s = 0.0
    while waited_s < 7 * 86_400:
        waited_s += uplink.step()
    assert hub.posts < 7 * 86_400 / 150 + 20
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    hub.answer = None
    while outbox.depth():
        uplink.step()
    assert hub.received == list(range(1, 21))


def test_a_batch_says_when_it_was_sent_so_that_a_hub_can_date_it(outbox: Outbox) -> None:
    bodies: list[bytes] = []

    class Listening(HubDouble):
        def post(self, request: Request) -> Answer:
            bodies.append(request.body)
            return super().post(request)

    _run(outbox, Listening(), 1)
    batch = decode_batch(bodies[0])
    now = SystemClock().now()
    assert batch.sent_boot_id == now.boot_id
    assert 0 <= now.monotonic_ms - batch.sent_monotonic_ms < 5000


def test_a_hazard_does_not_wait_for_the_next_turn(outbox: Outbox, make_event: Make) -> None:
    hub = HubDouble()
    outbox.ack(20)
    uplink = Uplink(outbox, hub, HttpUplinkConfig(url="http://hub", interval_s=600), SystemClock())
    uplink.start()
    outbox.append(make_event())
    started = time.monotonic()
    uplink.hurry()
    while outbox.depth() and time.monotonic() - started < 5:
        threading.Event().wait(0.01)
    uplink.stop()
    assert hub.received == [21]


@pytest.mark.parametrize("bin_id", ["a", "b"], ids=["restored", "another bin's"])
def test_a_copied_card_loses_no_event_to_numbers_that_the_hub_has_seen(
    tmp_path: Path, make_event: Make, bin_id: str
) -> None:
    hub = HubDouble()

    def drain(outbox: Outbox) -> None:
        uplink = Uplink(outbox, hub, HttpUplinkConfig(url="http://hub"), SystemClock())
        for _ in range(4):
            uplink.step()
        assert outbox.depth() == 0

    with Outbox(tmp_path / "o.sqlite", "a") as first:
        for _ in range(5):
            first.append(make_event())
        drain(first)
    shutil.copy(tmp_path / "o.sqlite", tmp_path / "copy.sqlite")
    with Outbox(tmp_path / "o.sqlite", "a") as first:
        for _ in range(10):
            first.append(make_event())
        drain(first)
    with Outbox(tmp_path / "copy.sqlite", bin_id) as copy:
        assert [copy.append(make_event()) for _ in range(3)] == [6, 7, 8]
        drain(copy)
        assert copy.outbox_id != first.outbox_id
        assert hub.of(copy.outbox_id) == [6, 7, 8]
    assert hub.of(first.outbox_id) == list(range(1, 16))
