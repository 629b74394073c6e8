"""A real hub under hostile input: mutated bodies, bombs, endless ones, replays, others' keys.

The attacker has a key of its own: mutated bodies are signed with it, or they would not be unpacked.
Counted are answers by status, 5xx above all; then whether the hub still answers and all its tasks
live, how much its memory grew, and whether the lake holds any event in another bin's name.
BINSIGHT_ATTACKS sets the number of mutated requests.
"""

import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb

from benchmarks.bench_ingest import EVENT
from benchmarks.signing import Signer
from cluster.lake.store import Lake
from cluster.registry.model import Place
from cluster.registry.store import Registry
from vision.enrolment import encode_key_request
from vision.events import Batch
from vision.signature import Subject
from vision.wire import INGEST_PATH, KEYS_PATH, MAX_BODY_BYTES, encode_batch

ATTACKS = int(os.environ.get("BINSIGHT_ATTACKS", "100000"))
CONNECTIONS = 8
ENDLESS_BYTES = 1_000_000_000
EVENTS = 20

Attack = tuple[str, bytes, dict[str, str]]


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        lake = Path(folder) / "lake"
        own = Signer("bin-own")
        other = Signer("bin-other")
        registry = Registry(f"sqlite:///{lake / 'registry.sqlite'}")
        now = time.time_ns() // 1_000_000
        registry.place([Place(own.bin_id, "one"), Place(other.bin_id, "two")], now)
        for signer in (own, other):
            code = registry.issue_code(signer.bin_id, now)
            registry.enrol(code, signer.bin_id, signer.public, now)
        registry.close()
        command = [sys.executable, "-m", "binsight", "hub", "serve", f"--set=lake={lake}"]
        hub = subprocess.Popen(
            [*command, "--set=port=0", "--set=require_signatures=true"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hub.stdout is not None
        url = hub.stdout.readline().removeprefix("hub: ").strip()
        try:
            yield _attacked(url, hub.pid, lake, own, other)
        finally:
            hub.terminate()
            hub.wait()


def _attacked(url: str, pid: int, lake: Path, own: Signer, other: Signer) -> dict[str, Any]:
    good = _batch(own, own.bin_id, "outbox-own", 1)
    statuses: Counter[str] = Counter()
    _send(url, [good] * 20, statuses, "good and replayed")
    _run(url, 2000, statuses, own, other)  # what the first thousands cost once
    before = _memory_mb(pid)
    started = time.perf_counter()
    sent = _run(url, ATTACKS, statuses, own, other)
    seconds = time.perf_counter() - started
    endless = _endless(url)
    health = _health(url)
    files = _settled_files(url, lake)
    with duckdb.connect() as db:
        stored = db.read_parquet(files, hive_partitioning=False)
        rows = stored.aggregate("bin_id, outbox_id, count(*)", "bin_id, outbox_id").fetchall()
    return {
        "requests": sent,
        "seconds": round(seconds, 1),
        "by_status": dict(sorted(statuses.items())),
        "unmeant_5xx": sum(n for what, n in statuses.items() if what.startswith("5")),
        "endless_body_cut_off_after_mb": round(endless / 1e6, 1),
        "problems": health["problems"],
        "memory_growth_mb": round(_memory_mb(pid) - before, 1),
        "events_of_the_honest_bin": sum(n for bin_id, _, n in rows if bin_id == own.bin_id),
        "events_of_the_attacker": sum(n for bin_id, _, n in rows if bin_id == other.bin_id),
        "events_in_another_name": sum(
            n
            for bin_id, outbox, n in rows
            if bin_id not in (own.bin_id, other.bin_id)
            or (bin_id == own.bin_id) != (outbox == "outbox-own")
        ),
    }


def _run(url: str, count: int, statuses: "Counter[str]", own: Signer, other: Signer) -> int:
    """Send mutated requests over several connections."""
    threads = [
        threading.Thread(
            target=lambda seed=seed: _send(
                url, _attacks(random.Random(seed), count // CONNECTIONS, own, other), statuses
            )
        )
        for seed in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count // CONNECTIONS * CONNECTIONS


def _attacks(rng: random.Random, count: int, own: Signer, other: Signer) -> Iterator[Attack]:
    good = _batch(own, own.bin_id, "outbox-own", 1)
    fixed: list[Attack] = [
        _batch(other, own.bin_id, "outbox-x", 1),  # another bin's name
        _batch(other, other.bin_id, "outbox-own", 10_000),  # another bin's outbox
        (INGEST_PATH, _body(own.bin_id, "outbox-own", 500), {}),  # unsigned, in its name
        _batch(Signer(own.bin_id), own.bin_id, "outbox-own", 600),  # by a key of nobody
        (INGEST_PATH, zlib.compress(bytes(64 * 1024 * 1024), 9), {}),
        (INGEST_PATH, zlib.compress(b"[" * 1_000_000), {}),
        (INGEST_PATH, zlib.compress(b'{"schema":' + b"9" * 1_000_000 + b"}"), {}),
        (INGEST_PATH, bytes(MAX_BODY_BYTES + 1), {}),
        (KEYS_PATH, encode_key_request(own.bin_id, other.public, other.key.sign, "A" * 26), {}),
    ]
    for n in range(count):
        if n % 50 == 0:
            yield fixed[(n // 50) % len(fixed)]
        else:
            yield _mutated(rng, good, other)


def _mutated(rng: random.Random, good: Attack, other: Signer) -> Attack:
    """Change a good request somewhere: body, unpacked text, a field, or the path."""
    path, body, fields = good
    kind = rng.randrange(5)
    if kind == 0:
        return path, _bytes_changed(rng, body), fields
    if kind in (1, 2):
        own = zlib.decompress(_body(other.bin_id, f"outbox-{rng.randrange(9)}", 1))
        text = _bytes_changed(rng, own) if kind == 1 else _field_changed(rng, own)
        changed = zlib.compress(text, 1)
        outbox = re.search(rb'"outbox_id": ?"([!-~]{1,99}?)"', text)
        subject = Subject(outbox[1].decode() if outbox else "", 1, EVENTS)
        return path, changed, other.fields(changed, subject)
    if kind == 3:
        name = rng.choice(list(fields))
        value = _bytes_changed(rng, fields[name].encode()).decode("latin-1")
        return path, body, {**fields, name: "".join(c for c in value if " " < c < "\x7f")}
    return (
        KEYS_PATH,
        _bytes_changed(rng, encode_key_request("b", bytes(32), lambda _: bytes(64))),
        {},
    )


def _bytes_changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(changed))
        how = rng.randrange(4)
        if how == 0:
            changed[at] = rng.randrange(256)
        elif how == 1:
            del changed[at : at + rng.randrange(1, 20)]
        elif how == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 20))
        else:
            changed = changed[: max(1, at)]
        if not changed:
            return b"\0"
    return bytes(changed)


def _field_changed(rng: random.Random, text: bytes) -> bytes:
    document: dict[str, Any] = json.loads(text)
    target = rng.choice([document, rng.choice(document["events"])])
    strange: list[Any] = [
        None,
        True,
        -1,
        2**70,
        1e308,
        "",
        "x" * 5000,
        "\ud800",
        [],
        {},
        [[[]]],
        0.5,
    ]
    target[rng.choice(list(target))] = rng.choice(strange)
    if rng.random() < 0.1:
        target["extra-" + "y" * rng.randrange(50)] = rng.choice(strange)
    return json.dumps(document).encode()


def _body(bin_id: str, outbox: str, first: int) -> bytes:
    return encode_batch(Batch(outbox, bin_id, 0, tuple((first + n, EVENT) for n in range(EVENTS))))


def _batch(signer: Signer, bin_id: str, outbox: str, first: int) -> Attack:
    body = _body(bin_id, outbox, first)
    return INGEST_PATH, body, signer.fields(body, Subject(outbox, first, first + EVENTS - 1))


def _send(
    url: str, attacks: "Iterator[Attack] | list[Attack]", statuses: "Counter[str]", what: str = ""
) -> None:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    for path, body, fields in attacks:
        try:
            connection.request("POST", path, body, fields)
            answer = connection.getresponse()
            answer.read()
            statuses[f"{answer.status} {what}".strip()] += 1
        except (OSError, http.client.HTTPException):
            statuses["cut off"] += 1
            connection.close()
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.close()


def _endless(url: str) -> int:
    """Send a body of a gigabyte until the hub ends it; return the bytes that it took."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest("POST", INGEST_PATH)
    connection.putheader("Content-Length", str(ENDLESS_BYTES))
    connection.endheaders()
    sent = 0
    try:
        while sent < ENDLESS_BYTES:
            connection.send(bytes(1_000_000))
            sent += 1_000_000
    except OSError:
        pass
    connection.close()
    return sent


def _settled_files(url: str, lake: Path) -> list[str]:
    """Return the lake's files once nothing waits in the log."""
    return _wait(lambda: Lake(lake).files("events") if not _health(url)["waiting_events"] else [])


def _wait(ask: Callable[[], list[str]]) -> list[str]:
    while not (found := ask()):
        time.sleep(0.5)
    return found


def _health(url: str) -> dict[str, Any]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.request("GET", "/v1/health")
    health: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return health


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
