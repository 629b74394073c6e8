"""Kill a real hub with SIGKILL at random instants while batches come, and count what is lost.

Each life ends at a random instant of its first seconds, with the ingest log, the move to the lake
and compaction under way. A client sends numbered events by HTTP and remembers what was
acknowledged. At the end the lake must hold every acknowledged event, and none twice.
BINSIGHT_KILLS=300 makes it longer.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx2

from benchmarks.bench_ingest import EVENT
from cluster.ingest.move import move_waiting
from cluster.lake.store import Lake
from vision.errors import WireError
from vision.events import Batch
from vision.wire import INGEST_PATH, decode_receipt, encode_batch

KILLS = int(os.environ.get("BINSIGHT_KILLS", "40"))
OUTBOXES = 4
BATCH_EVENTS = 20
LIFE_MAX_S = 2.0


class Client:
    """One outbox that sends for ever: the next batch only after the receipt of the last.

    Attributes:
        acknowledged: greatest number that the hub has acknowledged.
    """

    def __init__(self, number: int) -> None:
        self._name = f"outbox-{number}"
        self.acknowledged = 0
        self._url = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, url: str) -> None:
        """Send to a hub from now on; from the second call on, to another."""
        self._url = url
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Stop after the batch in hand."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self.acknowledged + 1
            events = tuple((n, EVENT) for n in range(first, first + BATCH_EVENTS))
            try:
                body = encode_batch(Batch(self._name, self._name, 0, events))
                answer = httpx2.post(self._url + INGEST_PATH, content=body, timeout=5)
                if answer.status_code == 200:
                    self.acknowledged = decode_receipt(answer.content).acked_seq
            except (httpx2.HTTPError, WireError):
                self._stop.wait(0.05)


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row: kills, events acknowledged, of these lost, events twice."""
    rng = random.Random(0)
    clients = [Client(number) for number in range(OUTBOXES)]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        lake = Lake(Path(folder) / "lake")
        for _ in range(KILLS):
            hub, url = _hub(lake.folder)
            for client in clients:
                client.start(url)
            time.sleep(rng.uniform(0, LIFE_MAX_S))
            hub.kill()
            hub.wait()
        for client in clients:
            client.close()
        move_waiting(lake)
        with duckdb.connect() as db:
            stored = db.read_parquet(lake.files("events"), hive_partitioning=False)
            counts = stored.aggregate(
                "outbox_id, count(*), count(DISTINCT seq), max(seq)", "outbox_id"
            ).fetchall()
    found = {outbox: (events, distinct, last) for outbox, events, distinct, last in counts}
    acknowledged = {client._name: client.acknowledged for client in clients}
    yield {
        "kills": KILLS,
        "acknowledged": sum(acknowledged.values()),
        "stored": sum(events for events, _, _ in found.values()),
        # Numbers have no gaps, so the distinct ones up to the last are all of them.
        "lost": sum(
            max(0, last - found.get(outbox, (0, 0, 0))[1]) for outbox, last in acknowledged.items()
        ),
        "gaps": sum(last - distinct for _, distinct, last in found.values()),
        "twice": sum(events - distinct for events, distinct, _ in found.values()),
    }


def _hub(lake: Path) -> tuple[subprocess.Popen[str], str]:
    settings = [f"--set=lake={lake}", "--set=port=0", "--set=lake_interval_s=0.5"]
    hub = subprocess.Popen(
        [sys.executable, "-m", "binsight", "hub", "serve", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert hub.stdout is not None
    line = hub.stdout.readline()
    if not line.startswith("hub: "):
        raise RuntimeError("the hub did not start again after a kill")
    return hub, line.removeprefix("hub: ").strip()
