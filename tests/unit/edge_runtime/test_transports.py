"""The way to the hub itself.

Slow and broken answers, certificates, and what is reported of an address.
"""

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.clock import Instant, SystemClock
from edge_runtime.config import HttpUplinkConfig
from edge_runtime.outbox import Outbox
from edge_runtime.transports.factory import open_transport
from edge_runtime.transports.http import HttpTransport
from edge_runtime.transports.transport import Request
from edge_runtime.uplink import Uplink
from vision.addresses import without_secrets
from vision.errors import ConfigError, UplinkError
from vision.events import ItemEvent, Receipt
from vision.wire import decode_batch, encode_receipt

Make = Callable[..., ItemEvent]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://user:p@ss@host:1883", "mqtt://host:1883"),
        ("rtsp://host/live?user=admin&password=secret&ch=1", "rtsp://host/live"),
        ("http://cam/video.cgi?loginuse=admin&loginpas=secret", "http://cam/video.cgi"),
        ("rtsp://admin:a/b@cam/1", "rtsp://cam/1"),
        ("rtsp://admin:a?b#c@cam:554/1", "rtsp://cam:554/1"),
        ("rtsp://admin@cam/1#t=secret", "rtsp://cam/1"),
        ("/dev/v4l/by-id/usb-cam@1", "/dev/v4l/by-id/usb-cam@1"),
        (
            "https://hub.example.org/at@home",
            "https://home",
        ),  # it might be a password; better too little than too much
        ("https://hub.example.org:8443/city/v1", "https://hub.example.org:8443/city/v1"),
        ("http://cam:8080/video.cgi?user=admin@site&pwd=secret", "http://cam:8080/video.cgi"),
        ("http://[::1]:80/x?u=a@b:secret", "http://[::1]:80/x"),
        ("http://cam:80/x?q=1#a@secret", "http://cam:80/x"),
        ("rtsp://secret:1?b@cam", "rtsp://***"),
        ("rtsp://DOMAIN/user:secret@cam/1", "rtsp://cam/1"),
        ("rtsp://user/pw@cam/1", "rtsp://cam/1"),
        ("admin:secret@cam/1", "cam/1"),
        ("//admin:secret@cam/1", "cam/1"),
        ("rtsp:/admin:secret@cam/1", "cam/1"),
        ("rtsp://cam:554/live/user=admin_password=secret_channel=1.sdp", "rtsp://cam:554/live"),
        ("http://cam/v;pw=secret", "http://cam"),
        ("0", "0"),
    ],
)
def test_scheme_host_port_and_path_are_shown_and_no_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_no_password_of_the_hub_is_reported() -> None:
    transport = HttpTransport(HttpUplinkConfig(url="http://bin7:s3cret@127.0.0.1:9"), SystemClock())
    with pytest.raises(UplinkError) as failure:
        transport.post(Request(b""))
    assert "s3cret" not in str(failure.value)


class SlowHub:
    """A real server that answers in a way of its own."""

    def __init__(self, drip: bytes, pause_s: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._drip = drip
        self._pause_s = pause_s
        self._over = threading.Event()
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
    config = HttpUplinkConfig(url=hub.url, timeout_s=0.3)
    transport = HttpTransport(config, SystemClock())
    uplink = Uplink(outbox, transport, config, SystemClock())
    started = time.monotonic()
    uplink.step()
    assert time.monotonic() - started < 4
    assert uplink.last_error
    assert (outbox.depth(), outbox.quarantined()) == (20, 0)
    transport.close()
    hub.close()


class TlsHub:
    """A hub behind HTTPS; its certificate held from the first of January 2016 for some years."""

    def __init__(self, folder: Path, years: int) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("no openssl on this machine")
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n"
            "x509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=DNS:localhost\n"
        )
        for message in (
            "req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
            "ca -config ca.cnf -selfsign -batch -keyfile key.pem -in request.pem -startdate "
            "20160101000000Z "
            f"-enddate {2016 + years}0101000000Z -notext -out cert.pem",
        ):
            subprocess.run([openssl, *message.split()], cwd=folder, check=True, capture_output=True)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                batch = decode_batch(self.rfile.read(int(self.headers["Content-Length"])))
                receipt = encode_receipt(Receipt(batch.outbox_id, batch.events[-1][0]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(receipt)))
                self.end_headers()
                self.wfile.write(receipt)

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


def test_https_trusts_the_certificate_it_was_given_and_no_other(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub = TlsHub(tmp_path, 40)
    clock = NetworkClock(True)
    for config, left in (
        (HttpUplinkConfig(url=hub.url), 20),
        (HttpUplinkConfig(url=hub.url, ca=hub.certificate), 0),
    ):
        transport = HttpTransport(config, clock)
        uplink = Uplink(outbox, transport, config, clock)
        uplink.step()
        transport.close()
        assert outbox.depth() == left
        assert ("CERTIFICATE_VERIFY_FAILED" in uplink.last_error) == bool(left)
    hub.close()
    with pytest.raises(ConfigError, match=r"uplink: .*none\.pem"):
        open_transport(HttpUplinkConfig(url=hub.url, ca=tmp_path / "none.pem"), clock)


def test_a_bin_that_does_not_know_the_time_does_not_check_the_dates_of_a_certificate_but_all_else(
    tmp_path: Path, outbox: Outbox
) -> None:
    hub = TlsHub(tmp_path, 1)
    clock = NetworkClock(True)
    config = HttpUplinkConfig(url=hub.url, ca=hub.certificate)
    transport = HttpTransport(config, clock)
    uplink = Uplink(outbox, transport, config, clock)
    uplink.step()
    assert "certificate has expired" in uplink.last_error
    clock.synced = False
    uplink.step()
    assert (outbox.depth(), uplink.last_error) == (0, "")
    transport.close()
    for url, ca in ((hub.url, None), (hub.url.replace("localhost", "127.0.0.1"), hub.certificate)):
        other = HttpTransport(HttpUplinkConfig(url=url, ca=ca), clock)
        with pytest.raises(UplinkError, match="CERTIFICATE_VERIFY_FAILED"):
            other.post(Request(b""))
        other.close()
    hub.close()
