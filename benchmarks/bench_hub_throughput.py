"""Events a second that one hub acknowledges durably, signed, by HTTP, with the clients beside it.

A hub process that takes signed batches only; BINS bins with a key each, over CLIENTS connections
from this process. The bodies are made before; each is signed when it is sent. At the end the lake
is read back: nothing is lost, nothing is there twice.
"""

import http.client
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb

from benchmarks.bench_ingest import _events
from benchmarks.signing import Signer
from cluster.lake.store import Lake
from cluster.registry.model import Place
from cluster.registry.store import Registry
from vision.events import Batch
from vision.signature import Subject
from vision.wire import INGEST_PATH, MEDIA_TYPE, decode_receipt, encode_batch

BINS = 100
CLIENTS = 100
EVENTS = 600_000
SIZES = (100, 500, 1000)
_SEQ = 7_777_777


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for each batch size."""
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            yield _measured(Path(folder) / "lake", size)


def _measured(lake: Path, size: int) -> dict[str, Any]:
    signers = _enrolled(lake)
    rounds = EVENTS // (BINS * size)
    waiting = _bodies(signers, size, rounds)
    command = [sys.executable, "-m", "binsight", "hub", "serve", f"--set=lake={lake}"]
    command += ["--set=port=0", "--set=require_signatures=true", "--set=aggregate_interval_s=0"]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert hub.stdout is not None
    address = urlsplit(hub.stdout.readline().removeprefix("hub: ").strip()).netloc
    try:
        cpu_before = _cpu_s(hub.pid)
        mine_before = time.process_time()
        started = time.perf_counter()
        took = _sent(address, waiting)
        seconds = time.perf_counter() - started
        hub_cpu_s = _cpu_s(hub.pid) - cpu_before
        clients_cpu_s = time.process_time() - mine_before
        hub_mb = _memory_mb(hub.pid)
    finally:
        hub.terminate()
        hub.wait()
    events = rounds * BINS * size
    with duckdb.connect() as db:
        stored, twice = (
            db.read_parquet(Lake(lake).files("events"), hive_partitioning=False)
            .aggregate("count(*), count(*) - count(DISTINCT (outbox_id, seq))")
            .fetchall()[0]
        )
    took.sort()
    return {
        "batch_events": size,
        "events": events,
        "events_per_second": round(events / seconds),
        "ack_ms_median": round(1000 * took[len(took) // 2], 1),
        "ack_ms_p99": round(1000 * took[int(0.99 * len(took))], 1),
        "hub_us_per_event": round(1e6 * hub_cpu_s / events, 1),
        "clients_us_per_event": round(1e6 * clients_cpu_s / events, 1),
        "hub_mb": round(hub_mb),
        "lost": events - stored,
        "twice": twice,
    }


def _enrolled(lake: Path) -> list[Signer]:
    """Register bins with their keys."""
    lake.mkdir(parents=True)
    signers = [Signer(f"bin-{number}") for number in range(BINS)]
    registry = Registry(f"sqlite:///{lake / 'registry.sqlite'}")
    try:
        now = time.time_ns() // 1_000_000
        registry.place([Place(signer.bin_id, "city") for signer in signers], now)
        for signer in signers:
            code = registry.issue_code(signer.bin_id, now)
            registry.enrol(code, signer.bin_id, signer.public, now)
    finally:
        registry.close()
    return signers


Batches = list[tuple[bytes, Subject]]


def _bodies(signers: list[Signer], size: int, rounds: int) -> list[tuple[Signer, Batches]]:
    """Return the encoded batches of each bin, in their order."""
    found = []
    for number, signer in enumerate(signers):
        outbox = f"outbox-{number}"
        rows = tuple((_SEQ + n, event) for n, event in _events(size, number))
        batch = Batch(outbox, signer.bin_id, 0, rows, 5_000, "boot", True)
        text = zlib.decompress(encode_batch(batch)).decode().replace("%", "%%")
        for n in range(size):
            text = text.replace(f'"seq":{_SEQ + 1 + n}', '"seq":%d', 1)
        batches: Batches = []
        for k in range(rounds):
            first = k * size + 1
            body = zlib.compress((text % tuple(range(first, first + size))).encode(), 6)
            batches.append((body, Subject(outbox, first, first + size - 1)))
        found.append((signer, batches))
    return found


def _sent(address: str, bins: list[tuple[Signer, Batches]]) -> list[float]:
    """Send all batches, those of a bin one after the other; return how long each took."""
    waiting: queue.SimpleQueue[tuple[Signer, Batches]] = queue.SimpleQueue()
    for one in bins:
        waiting.put(one)
    took: list[float] = []
    failed: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            try:
                signer, batches = waiting.get_nowait()
            except queue.Empty:
                return
            for body, subject in batches:
                started = time.perf_counter()
                headers = {"Content-Type": MEDIA_TYPE, **signer.fields(body, subject)}
                connection.request("POST", INGEST_PATH, body, headers)
                answer = connection.getresponse()
                text = answer.read()
                took.append(time.perf_counter() - started)
                if answer.status != 200 or decode_receipt(text).acked_seq != subject.last:
                    failed.append(json.dumps([answer.status, text.decode()]))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} batches were not taken: {failed[0]}")
    return took


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
