"""What each answer of the hub does to the outbox. The hub here is a double with rules, not a mock."""

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.config import UplinkConfig
from edge_runtime.outbox import Outbox
from edge_runtime.uplink import Answer, HttpTransport, Uplink, open_transport
from vision.errors import ConfigError, UplinkError
from vision.events import ItemEvent, Receipt, decode_batch, encode_receipt, encode_refusal

Make = Callable[..., ItemEvent]


class HubDouble:
    """Takes batches like the hub: idempotent, refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.answer: Answer | None = None
        self.down = False
        self.poison: set[int] = set()
        self.largest = 10_000
        self.posts = 0

    def close(self) -> None:
        pass

    def post(self, body: bytes) -> Answer:
        self.posts += 1
        if self.down:
            raise UplinkError("connection refused")
        if self.answer:
            return self.answer
        batch = decode_batch(body)
        numbers = [seq for seq, _ in batch.events]
        if len(numbers) > self.largest:
            return Answer(413, encode_refusal("too large"))
        if self.poison & set(numbers):
            return Answer(422, encode_refusal("a field I cannot take"))
        self.taken += [n for n in numbers if n > max(self.taken, default=0)]
        return Answer(200, encode_receipt(Receipt(batch.outbox_id, numbers[-1])))


@pytest.fixture
def outbox(tmp_path: Path, make_event: Make) -> Iterator[Outbox]:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for _ in range(20):
            outbox.append(make_event())
        yield outbox


def _run(outbox: Outbox, hub: HubDouble, steps: int, batch_events: int = 8) -> tuple[Uplink, list[float]]:
    uplink = Uplink(outbox, hub, UplinkConfig(url="http://hub", batch_events=batch_events), SystemClock())
    return uplink, [uplink.step() for _ in range(steps)]


def test_all_events_arrive_in_order_and_are_forgotten(outbox: Outbox) -> None:
    hub = HubDouble()
    _, pauses = _run(outbox, hub, 4)
    assert hub.taken == list(range(1, 21))
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
    assert (hub.taken, outbox.depth(), uplink.last_error) == (list(range(1, 21)), 0, "")


@pytest.mark.parametrize("status", [301, 404, 405, 408, 429, 500, 502, 503, 504])
def test_answers_that_say_nothing_of_the_events_never_cost_one(outbox: Outbox, status: int) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"<html>")
    _run(outbox, hub, 30)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)


def test_the_thread_survives_a_defect_and_says_so(outbox: Outbox) -> None:
    hub, failed = HubDouble(), threading.Event()
    healthy = hub.post

    def defect(body: bytes) -> Answer:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        return healthy(body)

    hub.post = defect  # type: ignore[method-assign]
    uplink = Uplink(outbox, hub, UplinkConfig(url="http://hub", backoff_max_s=0.01, interval_s=0.01), SystemClock())
    uplink.start()
    assert failed.wait(5)
    while outbox.depth():
        assert uplink._thread.is_alive()
        threading.Event().wait(0.01)
    uplink.stop()
    assert hub.taken == list(range(1, 21))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_keeps_everything_and_raises_the_alarm(outbox: Outbox, status: int) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"")
    uplink, _ = _run(outbox, hub, 5)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    assert "refuses this bin's token" in uplink.alarm
    hub.answer = None
    uplink.step()
    assert uplink.alarm == ""


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"<html>Free WiFi</html>", b'{"acked_seq": 20}', encode_receipt(Receipt("another", 20))]
)
def test_a_200_without_this_outboxs_receipt_is_no_acknowledgement(outbox: Outbox, body: bytes) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, body)
    _run(outbox, hub, 5)
    assert outbox.depth() == 20


def test_a_receipt_beyond_what_was_sent_acknowledges_only_what_was_sent(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, encode_receipt(Receipt(outbox.outbox_id, 15)))
    _run(outbox, hub, 1)
    assert outbox.depth() == 12


def test_a_receipt_for_events_that_never_were_acknowledges_nothing(outbox: Outbox) -> None:
    class Boasting(HubDouble):
        def post(self, body: bytes) -> Answer:
            return Answer(200, encode_receipt(Receipt(decode_batch(body).outbox_id, 10**9)))

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
    assert hub.taken == [n for n in range(1, 21) if n != 7]
    assert (outbox.depth(), outbox.quarantined()) == (0, 1)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_a_web_server_that_is_no_hub_refuses_is_kept_and_told(outbox: Outbox, status: int) -> None:
    hub = HubDouble()
    hub.answer = Answer(status, b"<html>The plain HTTP request was sent to HTTPS port</html>")
    uplink, _ = _run(outbox, hub, 30)
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    assert "no binsight hub" in uplink.alarm


def test_a_hub_that_refuses_everything_is_asked_ever_less_and_told(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.poison = set(range(1, 100))
    uplink, pauses = _run(outbox, hub, 12)
    assert "the hub refuses every event" in uplink.alarm
    assert pauses[-1] > 1
    assert outbox.depth() > 10


def test_too_large_batches_are_halved_until_they_fit(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.largest = 3
    _run(outbox, hub, 30)
    assert (hub.taken, outbox.quarantined()) == (list(range(1, 21)), 0)


class SlowHub:
    """A real server that answers in a way of its own."""

    def __init__(self, drip: bytes, pause_s: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._drip, self._pause_s, self._over = drip, pause_s, threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            try:
                for i in range(len(self._drip)):
                    connection.sendall(self._drip[i : i + 1])
                    if self._over.wait(self._pause_s):
                        return
            except OSError:
                pass

    def close(self) -> None:
        self._over.set()
        self._listener.close()


@pytest.mark.parametrize(
    ("drip", "pause_s"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 500, 0.02),
        (b"HTTP/1.1 200 OK\r\nServer: " + b"x" * 500, 0.02),
        (b"", 0.0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxx", 0.0),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 0.0),
    ],
    ids=["for ever", "for ever within a header", "never", "cut short", "another protocol"],
)
def test_an_answer_that_comes_slowly_cut_or_as_garbage_is_no_answer_and_costs_bounded_time(
    outbox: Outbox, drip: bytes, pause_s: float
) -> None:
    hub = SlowHub(drip, pause_s)
    config = UplinkConfig(url=hub.url, timeout_s=0.3)
    transport = HttpTransport(config)
    uplink, started = Uplink(outbox, transport, config, SystemClock()), time.monotonic()
    uplink.step()
    assert time.monotonic() - started < 4
    assert uplink.last_error
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    transport.close()
    hub.close()


def test_a_week_of_401_costs_few_requests_and_no_event(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(401, b"")
    uplink = Uplink(outbox, hub, UplinkConfig(url="http://hub", backoff_max_s=300), SystemClock())
    waited_s = 0.0
    while waited_s < 7 * 86_400:
        waited_s += uplink.step()
    assert hub.posts < 7 * 86_400 / 150 + 20
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    hub.answer = None
    while outbox.depth():
        uplink.step()
    assert hub.taken == list(range(1, 21))


def test_a_batch_says_when_it_was_sent_so_that_a_hub_can_date_it(outbox: Outbox) -> None:
    bodies: list[bytes] = []

    class Listening(HubDouble):
        def post(self, body: bytes) -> Answer:
            bodies.append(body)
            return super().post(body)

    _run(outbox, Listening(), 1)
    batch, now = decode_batch(bodies[0]), SystemClock().now()
    assert batch.sent_boot_id == now.boot_id
    assert 0 <= now.monotonic_ms - batch.sent_monotonic_ms < 5000


def test_a_hazard_does_not_wait_for_the_next_look(outbox: Outbox, make_event: Make) -> None:
    hub = HubDouble()
    outbox.ack(20)
    uplink = Uplink(outbox, hub, UplinkConfig(url="http://hub", interval_s=600), SystemClock())
    uplink.start()
    while hub.posts or uplink._urgent.is_set():
        pass
    outbox.append(make_event())
    started = time.monotonic()
    uplink.hurry()
    while outbox.depth() and time.monotonic() - started < 5:
        threading.Event().wait(0.01)
    uplink.stop()
    assert hub.taken == [21]


def test_https_trusts_the_certificate_it_was_given_and_no_other(tmp_path: Path, outbox: Outbox) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    taking = HubDouble()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = taking.post(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up at the handshake
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://localhost:{server.server_port}"
    for config, left in ((UplinkConfig(url=url), 20), (UplinkConfig(url=url, ca=certificate), 0)):
        transport = HttpTransport(config)
        uplink = Uplink(outbox, transport, config, SystemClock())
        uplink.step()
        transport.close()
        assert outbox.depth() == left
        assert ("CERTIFICATE_VERIFY_FAILED" in uplink.last_error) == bool(left)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConfigError, match=r"uplink: .*none\.pem"):
        open_transport(UplinkConfig(url=url, ca=tmp_path / "none.pem"))


class MarkingHub:
    """Keeps a mark for each outbox, as the hub does: what is not beyond it is a repeat."""

    def __init__(self) -> None:
        self.stored: dict[str, list[int]] = {}

    def post(self, body: bytes) -> Answer:
        batch = decode_batch(body)
        held = self.stored.setdefault(batch.outbox_id, [])
        held += [seq for seq, _ in batch.events if seq > max(held, default=0)]
        return Answer(200, encode_receipt(Receipt(batch.outbox_id, held[-1])))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("bin_id", ["a", "b"], ids=["restored", "another bin's"])
def test_a_copied_card_loses_no_event_to_numbers_that_the_hub_has_seen(
    tmp_path: Path, make_event: Make, bin_id: str
) -> None:
    hub = MarkingHub()

    def drain(outbox: Outbox) -> None:
        uplink = Uplink(outbox, hub, UplinkConfig(url="http://hub"), SystemClock())
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
        assert hub.stored[copy.outbox_id] == [6, 7, 8]
    assert hub.stored[first.outbox_id] == list(range(1, 16))
