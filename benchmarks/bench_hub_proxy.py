"""A line that spoils one request in ten, over 100,000 events: is each event there once?

Between the clients and a real hub stands a proxy. Of each hundred requests it drops two, cuts two
in the middle of the body, cuts two after the hub has answered, sends two twice, and sends two again
when later ones have passed.
"""

import http.client
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb

from benchmarks.bench_hub_kill import Client, _hub
from cluster.lake.store import Lake

EVENTS = int(os.environ.get("BINSIGHT_PROXY_EVENTS", "100000"))
OUTBOXES = 8
_SPOILED = ("dropped", "body cut", "answer cut", "doubled", "sent again later")
_SHARE = 0.02
_LATER_S = 1.0


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        lake = Lake(Path(folder) / "lake")
        hub, url = _hub(lake.folder)
        counts: Counter[str] = Counter()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(urlsplit(url).netloc, counts))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        clients = [Client(number) for number in range(OUTBOXES)]
        try:
            for client in clients:
                client.start(f"http://127.0.0.1:{proxy.server_port}")
            while sum(client.acknowledged for client in clients) < EVENTS:
                time.sleep(0.1)
            for client in clients:
                client.close()
            time.sleep(2 * _LATER_S)  # what the line has kept back
        finally:
            proxy.shutdown()
            hub.terminate()
            hub.wait()
        with duckdb.connect() as db:
            stored = db.read_parquet(lake.files("events"), hive_partitioning=False)
            rows = stored.aggregate(
                "outbox_id, count(*), count(DISTINCT seq), max(seq)", "outbox_id"
            ).fetchall()
    found = {outbox: (events, distinct, last) for outbox, events, distinct, last in rows}
    acknowledged = {client._name: client.acknowledged for client in clients}
    yield {
        "requests": sum(counts.values()),
        "spoiled": {what: counts[what] for what in _SPOILED},
        "acknowledged": sum(acknowledged.values()),
        "lost": sum(max(0, n - found[outbox][1]) for outbox, n in acknowledged.items()),
        "gaps": sum(last - distinct for _, distinct, last in found.values()),
        "twice": sum(events - distinct for events, distinct, _ in found.values()),
    }


def _proxy(address: str, counts: "Counter[str]") -> type[BaseHTTPRequestHandler]:
    rng = random.Random(0)

    def forward(path: str, body: bytes, sent: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(address, timeout=20)
        try:
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:sent])
            if sent < len(body):
                return 0, b""
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            share = int(rng.random() / _SHARE)
            what = _SPOILED[share] if share < len(_SPOILED) else "passed"
            counts[what] += 1
            status = 0
            answer = b""
            if what == "body cut":
                forward(self.path, body, len(body) // 2)
            elif what != "dropped":
                for _ in range(1 + (what == "doubled")):
                    status, answer = forward(self.path, body, len(body))
            if what == "sent again later":
                later = threading.Timer(_LATER_S, forward, (self.path, body, len(body)))
                later.daemon = True
                later.start()
            if not status or what == "answer cut":
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Proxy
