"""A real bin and a real hub, with the hub killed and the network cut while items fall."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.lake.store import Lake
from cluster.statistics.completeness import completeness
from cluster.statistics.query import duplicates
from edge_runtime.outbox import Outbox
from vision.simulator.world import read_ledger

DEADLINE_S = 60


def _start_hub(lake: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    arguments = [
        "hub",
        "serve",
        "--set",
        f"lake={lake}",
        "--set",
        f"port={port}",
        "--set",
        "lake_interval_s=0.5",
    ]
    hub = subprocess.Popen(
        [sys.executable, "-m", "binsight", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None
    return hub, hub.stdout.readline().removeprefix("hub: ").strip()


def _start_bin(state: Path, url: str, items: int, fps: float = 20) -> subprocess.Popen[str]:
    document = {
        "bin_id": "bin-1",
        "state": str(state),
        "threads": 1,
        "camera": {"width_px": 160, "height_px": 120, "fps": fps, "items": items},
        "uplink": {
            "url": url,
            "batch_events": 3,
            "interval_s": 0.1,
            "timeout_s": 2,
            "backoff_max_s": 0.5,
        },
    }
    config = state.with_suffix(".yaml")
    config.write_text(json.dumps(document))
    arguments = [
        sys.executable,
        "-m",
        "binsight",
        "edge",
        "run",
        "--config",
        str(config),
        "--drain-s",
        "20",
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _wait_until(what: str, condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        threading.Event().wait(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_exactly_once(lake_path: Path, state: Path, items: int) -> None:
    aggregate(HubConfig(lake=lake_path), "local")
    lake = Lake(lake_path)
    truth = read_ledger(state / "truth.jsonl")
    assert [line.what for line in truth] == ["dropped", "cleared"] * items
    rows = completeness(lake)
    assert [(r.events, r.max_seq, r.missing, r.dropped) for r in rows] == [(items, items, 0, 0)]
    assert duplicates(lake) == 0
    with Outbox(state / "outbox.sqlite", "bin-1") as outbox:
        assert (outbox.depth(), outbox.quarantined()) == (0, 0)


def test_hub_killed_in_the_middle_of_batches_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    state = tmp_path / "bin"
    items = 20
    port = _free_port()
    hub, url = _start_hub(lake, port)
    device = _start_bin(state, url, items)
    kills = 0
    try:
        for wanted in (3, 8, 13):
            _wait_until(
                f"{wanted} events in the lake",
                lambda wanted=wanted: _events(lake) >= wanted,
            )
            hub.kill()
            hub.wait()
            kills += 1
            _wait_until(
                "an event waits in the bin",
                lambda: _waiting(state) > 0 or device.poll() is not None,
            )
            hub, _ = _start_hub(lake, port)
        out, _ = device.communicate(timeout=DEADLINE_S)
    finally:
        hub.kill()
        hub.wait()
        device.kill()
        device.wait()
    assert kills == 3
    assert f"{items} items, 0 waiting for the hub" in out
    _check_exactly_once(lake, state, items)


def test_hub_that_is_down_from_the_start_costs_nothing(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    state = tmp_path / "bin"
    port = _free_port()
    device = _start_bin(state, f"http://127.0.0.1:{port}", 5, fps=0)
    _wait_until("all items are served", lambda: len(read_ledger(state / "truth.jsonl")) == 10)
    hub, _ = _start_hub(lake, port)
    try:
        out, _ = device.communicate(timeout=DEADLINE_S)
    finally:
        hub.kill()
        hub.wait()
    assert "5 items, 0 waiting for the hub" in out
    _check_exactly_once(lake, state, 5)


def test_a_line_that_is_cut_after_the_hub_stored_and_before_it_answered_duplicates_nothing(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    state = tmp_path / "bin"
    hub, url = _start_hub(lake)
    proxy = _CuttingProxy(int(url.rsplit(":", 1)[1]), cut_first=4)
    device = _start_bin(state, f"http://127.0.0.1:{proxy.port}", 8)
    try:
        out, _ = device.communicate(timeout=DEADLINE_S)
        with urllib.request.urlopen(f"{url}/v1/health") as answer:
            counters = json.load(answer)["ingest"]
    finally:
        hub.kill()
        hub.wait()
        proxy.close()
    assert "8 items, 0 waiting for the hub" in out
    assert proxy.cut == 4
    assert counters["repeated_events"] > 0  # the same events did come twice ...
    _check_exactly_once(lake, state, 8)  # ... and are there once


@pytest.mark.parametrize("instant", range(4))
def test_a_bin_killed_at_any_instant_duplicates_nothing_and_loses_at_most_the_item_in_hand(
    tmp_path: Path, instant: int
) -> None:
    state = tmp_path / "bin"
    device = _start_bin(state, "http://127.0.0.1:9", 7)
    _wait_until("some items are served", lambda: len(read_ledger(state / "truth.jsonl")) >= 4)
    threading.Event().wait(0.061 * instant)
    device.kill()
    device.wait()
    if device.stdout:
        device.stdout.close()
    served_before = sum(line.what == "cleared" for line in read_ledger(state / "truth.jsonl"))
    with Outbox(state / "outbox.sqlite", "bin-1") as outbox:
        stored_before = outbox.depth()
    assert served_before - 1 <= stored_before <= served_before
    config = str(state.with_suffix(".yaml"))
    again = subprocess.run(
        [sys.executable, "-m", "binsight", "edge", "run", "--config", config, "--drain-s", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    truth = read_ledger(state / "truth.jsonl")
    assert [line.what for line in truth] == ["dropped", "cleared"] * 7, again.stderr
    with Outbox(state / "outbox.sqlite", "bin-1") as outbox:
        batch = outbox.peek(100)
        assert batch is not None
        assert [seq for seq, _ in batch.events] == list(range(1, len(batch.events) + 1))
        assert len(batch.events) == 7 - (served_before - stored_before)


class _CuttingProxy:
    """Passes requests on and closes the bin's connection when the first answers come."""

    def __init__(self, target: int, cut_first: int) -> None:
        self._target = target
        self._left = cut_first
        self.cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far:
            threading.Thread(target=self._copy, args=(near, far), daemon=True).start()
            while True:
                try:
                    data = far.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                if self._left:
                    self._left -= 1
                    self.cut += 1
                    return
                near.sendall(data)

    @staticmethod
    def _copy(near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65536):
                far.sendall(data)
        except OSError:
            return


def _events(lake: Path) -> int:
    import duckdb

    files = Lake(lake).files("events")
    row = (
        duckdb.execute("SELECT count(*) FROM read_parquet(?)", [files]).fetchone()
        if files
        else None
    )
    return int(row[0]) if row else 0


def _waiting(state: Path) -> int:
    import apsw

    # The bin has the database open: this test only reads.
    with apsw.Connection(str(state / "outbox.sqlite"), flags=apsw.SQLITE_OPEN_READONLY) as reader:
        reader.set_busy_timeout(2000)
        return int(str(reader.execute("SELECT count(*) FROM event").fetchall()[0][0]))
