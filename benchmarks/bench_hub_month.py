"""A month of a city through one real hub, as fast as it takes it: does it wear out?

A hub process takes batches by HTTP from BINS bins of ITEMS_A_DAY items, a simulated day
after the other, from CLIENTS connections. Measured are the acknowledgements of the first and of the
last simulated hours, files, size and the answer of `/v1/health` by day, and the hub's memory. The
lake is read back at the end: nothing is lost, nothing is there twice. It takes about a quarter of
an hour on two cores; BINSIGHT_MONTH_DAYS=3 makes it shorter.
"""

import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx2

from benchmarks.bench_ingest import EVENT
from cluster.lake.store import Lake
from vision.events import Batch
from vision.wire import INGEST_PATH, MEDIA_TYPE, decode_receipt, encode_batch

BINS = 1000
ITEMS_A_DAY = 500
DAYS = int(os.environ.get("BINSIGHT_MONTH_DAYS", "30"))
CLIENTS = 16
DAY_MS = 86_400_000
FIRST_DAY_UTC_MS = 1_790_000_000_000


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for each simulated day, then one for the month."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        lake = Path(folder) / "lake"
        hub = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "binsight",
                "hub",
                "serve",
                f"--set=lake={lake}",
                "--set=port=0",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hub.stdout is not None
        url = hub.stdout.readline().removeprefix("hub: ").strip()
        days = []
        try:
            for day in range(DAYS):
                days.append(_day(url, day))
                yield {**days[-1], **_state(url, lake, hub.pid)}
        finally:
            hub.terminate()
            hub.wait()
        first = days[0]
        last = days[-1]
        with duckdb.connect() as db:
            events, twice = (
                db.read_parquet(Lake(lake).files("events"), hive_partitioning=False)
                .aggregate("count(*), count(*) - count(DISTINCT (outbox_id, seq))")
                .fetchall()[0]
            )
        yield {
            "days": DAYS,
            "events": events,
            "lost": DAYS * BINS * ITEMS_A_DAY - events,
            "twice": twice,
            "events_per_second": round(
                sum(d["events"] for d in days) / sum(d["seconds"] for d in days)
            ),
            "median_ack_last_by_first": round(last["ack_ms_median"] / first["ack_ms_median"], 3),
        }


def _day(url: str, day: int) -> dict[str, Any]:
    """Send a day of every bin, one batch each, and return what the acknowledgements took."""
    template = _template()
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(BINS):
        waiting.put(number)
    took: list[float] = []
    failed: list[str] = []

    def client() -> None:
        headers = {"Content-Type": MEDIA_TYPE}
        with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
            while not waiting.empty():
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                body = _body(template, number, day)
                started = time.perf_counter()
                answer = http.post(INGEST_PATH, content=body)
                took.append(time.perf_counter() - started)
                if answer.status_code != 200:
                    failed.append(answer.text)
                elif decode_receipt(answer.content).acked_seq != (day + 1) * ITEMS_A_DAY:
                    failed.append("a receipt of another number")

    started = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} batches were not taken: {failed[0]}")
    seconds = time.perf_counter() - started
    took.sort()
    return {
        "day": day + 1,
        "events": BINS * ITEMS_A_DAY,
        "seconds": round(seconds, 2),
        "ack_ms_median": round(1000 * statistics.median(took), 2),
        "ack_ms_p99": round(1000 * took[int(0.99 * len(took))], 2),
    }


def _template() -> list[str]:
    """Return the JSON of a batch, split where bin, number and time stand."""
    document = json.loads(
        zlib.decompress(encode_batch(Batch("OUTBOX", "BIN", 0, ((7_777_777, EVENT),))))
    )
    event = json.dumps(document["events"].pop(), separators=(",", ":"))
    event = event.replace("7777777", "%d").replace(str(EVENT.wall_utc_ms), "%d")
    head = json.dumps(document, separators=(",", ":"))
    return [head, event]


def _body(template: list[str], number: int, day: int) -> bytes:
    head, event = template
    first = day * ITEMS_A_DAY
    start_ms = FIRST_DAY_UTC_MS - (DAYS - day) * DAY_MS
    rows = ",".join(
        event % (first + n, start_ms + n * (DAY_MS // ITEMS_A_DAY))
        for n in range(1, ITEMS_A_DAY + 1)
    )
    head = head.replace("OUTBOX", f"outbox-{number}").replace("BIN", f"bin-{number}")
    return zlib.compress(head.replace('"events":[]', f'"events":[{rows}]').encode(), 1)


def _state(url: str, lake: Path, pid: int) -> dict[str, Any]:
    files = [file for file in lake.rglob("*") if file.is_file()]
    started = time.perf_counter()
    with urllib.request.urlopen(f"{url}/v1/health") as answer:
        health = json.load(answer)
    assert health["problems"] == []
    memory = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return {
        "health_ms": round(1000 * (time.perf_counter() - started), 1),
        "files": len(files),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "hub_mb": round(int(memory) * os.sysconf("SC_PAGE_SIZE") / 1e6),
    }
