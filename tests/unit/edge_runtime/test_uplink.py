"""What each answer of the hub does to the outbox. The hub here is a double with rules, not a mock."""

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.clock import Instant, SystemClock
from edge_runtime.config import UplinkConfig, without_password
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


def test_a_hub_that_refuses_everything_for_a_week_has_few_events_set_aside(outbox: Outbox, make_event: Make) -> None:
    hub = HubDouble()
    hub.poison = set(range(1, 1000))
    for _ in range(300):
        outbox.append(make_event())
    uplink, waited_s = Uplink(outbox, hub, UplinkConfig(url="http://hub"), SystemClock()), 0.0
    while waited_s < 7 * 86_400:
        waited_s += uplink.step()
    assert outbox.quarantined() <= 7 * 24 + 5
    assert outbox.depth() + outbox.quarantined() == 320


def test_a_hub_that_acknowledges_nothing_is_asked_ever_less_and_told(outbox: Outbox) -> None:
    hub = HubDouble()
    hub.answer = Answer(200, encode_receipt(Receipt(outbox.outbox_id, 0)))
    uplink, pauses = _run(outbox, hub, 8)
    assert "acknowledges nothing" in uplink.last_error
    assert pauses[-1] > 10
    assert outbox.depth() == 20


def test_a_proxy_that_takes_less_at_once_gets_less_at_once(outbox: Outbox) -> None:
    hub = HubDouble()
    healthy = hub.post

    def proxy(body: bytes) -> Answer:
        return Answer(413, b"<html>nginx</html>") if len(decode_batch(body).events) > 3 else healthy(body)

    hub.post = proxy  # type: ignore[method-assign]
    _run(outbox, hub, 20)
    assert hub.taken == list(range(1, 21))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://user:p@ss@host:1883", "mqtt://host:1883"),
        ("rtsp://host/live?user=admin&password=secret&ch=1", "rtsp://host/live?user=admin&password=***&ch=1"),
        ("https://hub.example.org/at@home", "https://hub.example.org/at@home"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_no_password_of_the_hub_is_told() -> None:
    transport = HttpTransport(UplinkConfig(url="http://bin7:s3cret@127.0.0.1:9"), SystemClock())
    with pytest.raises(UplinkError) as told:
        transport.post(b"")
    assert "s3cret" not in str(told.value)


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
    transport = HttpTransport(config, SystemClock())
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


class TlsHub:
    """A hub behind HTTPS with a certificate of its own that held from the first of January 2016 for some years."""

    def __init__(self, folder: Path, years: int) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("no openssl on this machine")
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n"
            "x509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=DNS:localhost\n"
        )
        for words in (
            "req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
            "ca -config ca.cnf -selfsign -batch -keyfile key.pem -in request.pem -startdate 20160101000000Z "
            f"-enddate {2016 + years}0101000000Z -notext -out cert.pem",
        ):
            subprocess.run([openssl, *words.split()], cwd=folder, check=True, capture_output=True)
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

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.certificate = folder / "cert.pem"
        self.url = f"https://localhost:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class NetworkClock(SystemClock):
    """A clock of which is known whether it was set."""

    def __init__(self, synced: bool) -> None:
        super().__init__()
        self.synced = synced

    def now(self) -> Instant:
        return replace(super().now(), clock_synced=self.synced)


def test_https_trusts_the_certificate_it_was_given_and_no_other(tmp_path: Path, outbox: Outbox) -> None:
    hub, clock = TlsHub(tmp_path, 40), NetworkClock(True)
    for config, left in ((UplinkConfig(url=hub.url), 20), (UplinkConfig(url=hub.url, ca=hub.certificate), 0)):
        transport = HttpTransport(config, clock)
        uplink = Uplink(outbox, transport, config, clock)
        uplink.step()
        transport.close()
        assert outbox.depth() == left
        assert ("CERTIFICATE_VERIFY_FAILED" in uplink.last_error) == bool(left)
    hub.close()
    with pytest.raises(ConfigError, match=r"uplink: .*none\.pem"):
        open_transport(UplinkConfig(url=hub.url, ca=tmp_path / "none.pem"), clock)


def test_a_bin_that_does_not_know_the_time_does_not_judge_the_dates_of_a_certificate_but_all_else(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub, clock = TlsHub(tmp_path, 1), NetworkClock(True)
    config = UplinkConfig(url=hub.url, ca=hub.certificate)
    transport = HttpTransport(config, clock)
    uplink = Uplink(outbox, transport, config, clock)
    uplink.step()
    assert "certificate has expired" in uplink.last_error
    clock.synced = False
    uplink.step()
    assert (outbox.depth(), uplink.last_error) == (0, "")
    transport.close()
    for url, ca in ((hub.url, None), (hub.url.replace("localhost", "127.0.0.1"), hub.certificate)):
        other = HttpTransport(UplinkConfig(url=url, ca=ca), clock)
        with pytest.raises(UplinkError, match="CERTIFICATE_VERIFY_FAILED"):
            other.post(b"")
        other.close()
    hub.close()


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
