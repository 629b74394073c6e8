"""Kill bins with SIGKILL while items fall, and the hub too, and count what is lost or doubled.

The instants are random, and the hub goes up and down at random.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from cluster.ingest.move import move_waiting
from cluster.lake.store import Lake
from edge_runtime.clock import SystemClock
from edge_runtime.config import HttpUplinkConfig
from edge_runtime.outbox import Outbox
from edge_runtime.transports.http import HttpTransport
from edge_runtime.uplink import Uplink
from vision.simulator.world import read_ledger

KILLS = 500
BINS = 2
START_MAX_S = 120.0
ITEMS_A_LIFE = 2
_TINY = (
    "camera.width_px=160",
    "camera.height_px=120",
    "camera.fps=0",
    "threads=1",
    "uplink.backoff_max_s=0.5",
)


class Hub:
    """The real hub as a process that is killed and started again at random, until closed."""

    def __init__(self, lake: Path, rng: random.Random) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._lake = lake
        self._rng = rng
        self.kills = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start one hub process."""
        arguments = ["hub", "serve", f"--set=lake={self._lake}", f"--set=port={self._port}"]
        return subprocess.Popen(
            [sys.executable, "-m", "binsight", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Stop for good."""
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._over.is_set():
            process = self.start()
            self._over.wait(self._rng.uniform(3, 12))
            process.kill()
            process.wait()
            self.kills += 1
            self._over.wait(self._rng.uniform(0, 3))


def crash(folder: Path, kills: int, bins: int, seed: int = 0) -> dict[str, Any]:
    """Kill bins at random, let everything arrive, and count.

    Args:
        folder: where bins and lake are.
        kills: number of kills in all.
        bins: number of bins that live at the same time.
        seed: of the random instants.

    Returns:
        kills, hub_kills, items (cleared by a lid), events in the lake, lost (numbers that an outbox
        has given and the lake has not), double (numbers that the lake has twice), unrecorded (items
        whose lid moved and whose event was not yet appended: one for each kill at most).
    """
    rng = random.Random(seed)
    hub = Hub(folder / "lake", random.Random(seed + 1))
    states = [folder / f"bin{i}" for i in range(bins)]
    each = kills // bins
    threads = [
        threading.Thread(target=_live, args=(s, i, hub.url, each, random.Random(rng.random())))
        for i, s in enumerate(states)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hub.close()
    items = 0
    given = dict[str, int]()
    for state in states:
        items += sum(line.what == "cleared" for line in read_ledger(state / "truth.jsonl"))
        with Outbox(state / "outbox.sqlite", state.name) as outbox:
            rows: list[Any] = outbox._db.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'event'"
            ).fetchall()
            given[outbox.outbox_id] = int(rows[0][0]) if rows else 0
            assert outbox.dropped() == 0
    _deliver(hub, states)
    lake = Lake(folder / "lake")
    move_waiting(lake)
    files = lake.files("events")
    with duckdb.connect() as db:
        found = db.read_parquet(files).project("outbox_id, seq").fetchall()
    wanted = {(outbox, seq) for outbox, last in given.items() for seq in range(1, last + 1)}
    return {
        "kills": each * bins,
        "hub_kills": hub.kills,
        "items": items,
        "events": len(found),
        "lost": len(wanted - set(found)),
        "double": len(found) - len(set(found)),
        "unrecorded": items - sum(given.values()),
    }


def _live(state: Path, number: int, url: str, kills: int, rng: random.Random) -> None:
    """Start one bin and kill it at a random instant, so many times."""
    settings = [
        *_TINY,
        f"state={state}",
        f"bin_id=bin{number}",
        f"uplink.url={url}",
        f"camera.seed={number}",
    ]
    command = [sys.executable, "-m", "binsight", "edge", "run"]
    command += [f"--set={setting}" for setting in settings]
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # One life in four ends while the bin starts, on any machine; the others while it works.
        if rng.random() < 0.75:
            _wait_for_items(state, process)
        time.sleep(rng.uniform(0.0, 1.5))
        if process.poll() is not None:
            raise RuntimeError(f"bin {number} ended by itself with {process.returncode}")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_items(state: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a few items have fallen and been cleared in this life of the bin."""
    ledger = state / "truth.jsonl"
    known = len(read_ledger(ledger))
    deadline = time.monotonic() + START_MAX_S
    while len(read_ledger(ledger)) < known + 2 * ITEMS_A_LIFE and process.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{state.name} did not work within {START_MAX_S:.0f} s")
        time.sleep(0.02)


def _deliver(hub: Hub, states: list[Path]) -> None:
    """Let a hub that stays up take what is left in the outboxes."""
    process = hub.start()
    config = HttpUplinkConfig(url=hub.url, backoff_max_s=0.5)
    try:
        for state in states:
            with Outbox(state / "outbox.sqlite", state.name) as outbox:
                transport = HttpTransport(config, SystemClock())
                uplink = Uplink(outbox, transport, config, SystemClock())
                while outbox.depth():
                    time.sleep(uplink.step())
                transport.close()
    finally:
        process.terminate()
        process.wait()


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        yield {**crash(Path(folder), KILLS, BINS), "seconds": round(time.perf_counter() - started)}
