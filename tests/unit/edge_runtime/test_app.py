"""A bin as a service.

Watchdog, reload, the technician's screen and page, recordings, bounded logs.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_bundle import small_bundle

from configs import load
from edge_runtime import host, replay
from edge_runtime.app import run
from edge_runtime.bin import Timing
from edge_runtime.choose import choose
from edge_runtime.config import SHIPPED_BUNDLES, EdgeConfig
from edge_runtime.delivery import Delivery
from edge_runtime.outbox import Outbox
from edge_runtime.services.health import days_left
from vision.errors import ConfigError, StorageError
from vision.events import ItemEvent
from vision.simulator.world import read_ledger

ROOT = Path(__file__).parents[3]
RECORDING = ROOT / "tests" / "replay" / "six-items.avi"
SMALL = ("camera.width_px=160", "camera.height_px=120", "camera.fps=0", f"bundle={small_bundle()}")


def _config(tmp_path: Path, *more: str, camera: str = "simulator") -> EdgeConfig:
    simulated = [*SMALL, "camera.items=6"] if camera == "simulator" else [SMALL[-1]]
    return load(EdgeConfig, None, [*simulated, f"state={tmp_path / 'state'}", *more])


def test_every_item_dropped_in_becomes_one_event(tmp_path: Path) -> None:
    health = run(_config(tmp_path))
    truth = read_ledger(tmp_path / "state" / "truth.jsonl")
    assert [line.what for line in truth] == ["dropped", "cleared"] * 6
    with Outbox(tmp_path / "state" / "outbox.sqlite", "b") as outbox:
        batch = outbox.peek(100)
    assert batch is not None
    assert [seq for seq, _ in batch.events] == [1, 2, 3, 4, 5, 6]
    streams = [line.stream for line in truth if line.what == "cleared"]
    assert [event.stream for _, event in batch.events] == streams
    assert all(event.outcome == "moved" and event.total_ms > 0 for _, event in batch.events)
    assert (health.items, health.faults, health.unrecorded) == (6, 0, 0)
    written = json.loads((tmp_path / "state" / "health.json").read_text())
    assert (written["items"], written["outbox_depth"], written["camera"]) == (6, 6, "ok")


def test_images_of_a_folder_are_items(tmp_path: Path, image_folder: Path) -> None:
    health = run(
        _config(tmp_path, "camera.kind=folder", f"camera.source={image_folder}", "camera.items=24")
    )
    assert health.items == 24


def test_an_unreadable_photograph_is_left_out_of_the_count_and_named(
    tmp_path: Path, image_folder: Path
) -> None:
    broken = sorted((image_folder / "glass").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    health = run(
        _config(tmp_path, "camera.kind=folder", f"camera.source={image_folder}", "camera.items=24")
    )
    truth = read_ledger(tmp_path / "state" / "truth.jsonl")
    assert (health.items, health.faults) == (23, 0)
    assert [sum(line.what == what for line in truth) for what in ("cleared", "missed")] == [23, 1]


def test_a_bin_serves_on_a_read_only_disk_though_its_outbox_is_damaged(
    small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "outbox.sqlite").write_bytes(b"damaged" * 1000)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    health = run(_config(tmp_path, "camera.kind=file", f"camera.source={RECORDING}", camera="file"))
    assert (health.items, health.unrecorded, health.faults) == (6, 0, 0)
    assert "held in memory" in health.storage


def test_a_bin_serves_while_its_disk_is_full_and_afterwards(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, "camera.kind=file", f"camera.source={RECORDING}", camera="file")
    served: list[bool] = []
    append = Delivery.append

    def watched(delivery: Delivery, event: ItemEvent) -> None:
        append(delivery, event)
        served.append(delivery.in_memory)
        if len(served) == 2:
            filler = ["dd", "if=/dev/zero", f"of={small_disk / 'filler'}"]
            subprocess.run(filler, check=False, capture_output=True)
        elif len(served) == 4:
            (small_disk / "filler").unlink()

    monkeypatch.setattr(Delivery, "append", watched)
    health = run(config, timing=Timing(disk_retry_ms=0.0, health_ms=0.0))
    assert served == [False, False, True, True, False, False]
    assert (health.items, health.unrecorded, health.faults, health.storage) == (6, 0, 0, "")


class _Bin:
    """A bin in a process of its own, with a settings file and somebody in systemd's place."""

    def __init__(self, tmp_path: Path, *more: str) -> None:
        self.settings = tmp_path / "edge.yaml"
        self.state = tmp_path / "state"
        self.settings.write_text("max_frames_per_item: 1\ntrigger: {adapt: 0.05}\n")
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(tmp_path / "notify"))
        self.systemd.settimeout(20)
        sets = [f"--set={word}" for word in (*SMALL, f"state={self.state}", *more)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "binsight",
                "edge",
                "run",
                "--config",
                str(self.settings),
                *sets,
            ],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def heard(self, word: str) -> str:
        while True:
            message = self.systemd.recv(4096).decode()
            if word in message:
                return message

    def health(self, wanted: str) -> dict[str, Any]:
        """Wait until the health file holds `wanted`, and return it."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            text = (
                (self.state / "health.json").read_text()
                if (self.state / "health.json").is_file()
                else ""
            )
            if wanted in text:
                return dict(json.loads(text))
            assert self.process.poll() is None
            threading.Event().wait(0.05)
        raise AssertionError(text)

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=20)
        self.systemd.close()
        return out


@pytest.fixture
def running(tmp_path: Path) -> Iterator[_Bin]:
    running = _Bin(tmp_path, "camera.fps=20", "view.port=0")
    running.heard("READY=1")
    yield running
    if running.process.poll() is None:
        running.stop()


def test_systemd_is_notified_that_the_loop_lives_and_new_settings_hold_without_losing_an_item(
    running: _Bin,
) -> None:
    assert "STATUS=camera" in running.heard("WATCHDOG=1")
    running.health('"items"')
    running.settings.write_text("max_frames_per_item: 1\nrules: cn-shanghai\n")
    running.process.send_signal(signal.SIGHUP)
    wrong = running.health("the old ones hold")
    assert "streams" in wrong["settings"]
    running.settings.write_text("max_frames_per_item: 1\nbin_id: another\n")
    running.process.send_signal(signal.SIGHUP)
    assert (
        "bin_id: cannot change while the bin runs" in running.health("bin_id: cannot")["settings"]
    )
    running.settings.write_text("max_frames_per_item: 2\ntrigger: {settled_frames: 3}\n")
    running.process.send_signal(signal.SIGHUP)
    before = running.health('"settings": "ok"')["items"]
    while running.health('"items"')["items"] <= before:
        pass
    running.stop()
    ledger = read_ledger(running.state / "truth.jsonl")
    assert not [line for line in ledger if line.what == "missed"]
    assert running.process.returncode == 0


def test_the_page_shows_what_the_bin_sees(running: _Bin) -> None:
    assert running.process.stdout is not None
    address = running.process.stdout.readline().removeprefix("view: ").strip()
    running.health('"items": ')

    def get(path: str) -> tuple[str, bytes]:
        with urllib.request.urlopen(f"{address}/{path}", timeout=5) as answer:
            return answer.headers["Content-Type"], answer.read()

    state: dict[str, Any] = {"event": None}
    while state["event"] is None:
        state = json.loads(get("state.json")[1])
    assert state["event"]["label"]
    assert state["health"]["camera"] == "ok"
    assert get("frame.jpg")[1][:2] == get("item.jpg")[1][:2] == b"\xff\xd8"
    assert get("trigger.png")[1][:4] == b"\x89PNG"
    assert b"The trigger sees" in get("")[1]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get("../../etc/passwd")
    stolen = urllib.request.Request(f"{address}/frame.jpg", headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(stolen, timeout=5)


@pytest.mark.page
def test_the_page_is_filled_in_a_browser(running: _Bin) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    assert running.process.stdout is not None
    address = running.process.stdout.readline().removeprefix("view: ").strip()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.wait_for_function(
            "document.getElementById('decision').textContent.includes('→')", timeout=20_000
        )
        page.wait_for_function("document.getElementById('health').rows.length > 10")
        assert page.text_content("#name") == "bin-001"
        assert wrong == []
        browser.close()


def test_without_systemd_nobody_is_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert host.notify("READY=1") is False


def test_the_unit_that_ships_is_one_that_systemd_takes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "binsight", "edge", "unit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "WatchdogSec=" in done.stdout
    assert "Restart=always" in done.stdout
    unit = tmp_path / "binsight-edge.service"
    unit.write_text(done.stdout.replace("/opt/binsight/bin/binsight", sys.executable))
    try:
        verified = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no systemd-analyze here")
    # Without a running systemd only what it says of this very file counts.
    assert not [
        line for line in verified.stderr.splitlines() if "binsight-edge.service:" in line
    ], verified.stderr


def test_two_bins_never_share_a_state_folder(running: _Bin) -> None:
    with pytest.raises(
        StorageError, match=r"a bin runs on .*state already; to look at it set view\.port"
    ):
        run(load(EdgeConfig, None, [*SMALL, f"state={running.state}"]))


def test_neither_a_taken_port_nor_a_log_that_cannot_be_written_keeps_a_bin_from_serving(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        health = run(_config(tmp_path, f"view.port={port}", "log.path=/proc/no/such.log"))
    assert health.items == 6
    assert f"127.0.0.1:{port} cannot be bound" in health.settings


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: None], ids=["torn", "gone"]
)
def test_a_bin_whose_bundle_is_damaged_runs_the_one_that_ships(
    tmp_path: Path, damage: Callable[[bytes], bytes | None]
) -> None:
    bundle = tmp_path / "new.onnx"
    if (data := damage(small_bundle().read_bytes())) is not None:
        bundle.write_bytes(data)
    health = run(_config(tmp_path, f"bundle={bundle}"))
    assert health.items == 6
    assert str(bundle) in health.settings
    assert health.model == choose(SHIPPED_BUNDLES, 2).classifier.manifest.model_id


def test_the_log_is_bounded(tmp_path: Path) -> None:
    import logging

    config = _config(
        tmp_path, f"log.path={tmp_path / 'log' / 'bin.log'}", "log.max_bytes=10000", "log.files=2"
    )
    run(config)
    handlers = [
        h
        for h in logging.getLogger().handlers
        if getattr(h, "baseFilename", "").endswith("bin.log")
    ]
    try:
        for i in range(2000):
            logging.getLogger("edge_runtime").warning("line %d %s", i, "x" * 50)
        files = sorted((tmp_path / "log").iterdir())
        assert [f.name for f in files] == ["bin.log", "bin.log.1", "bin.log.2"]
        assert sum(f.stat().st_size for f in files) <= 30_000
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def test_days_left_follow_from_pace_and_room() -> None:
    # 2,000 items a day, a tenth full with 2,000 events: nine days until the rest is.
    assert days_left(0.1, 2000, 2000, 86_400) == 9.0
    assert days_left(0.1, 2000, 10, 100) is None


def test_a_recorded_recording_is_compared_with_what_was_accepted(tmp_path: Path) -> None:
    rows = replay.replay(RECORDING, load(EdgeConfig, None, [f"bundle={small_bundle()}"]))
    assert len(rows) == 6
    copy = tmp_path / RECORDING.name
    copy.write_bytes(RECORDING.read_bytes())
    with pytest.raises(ConfigError, match=r"no reference yet.*--accept"):
        replay.differences(copy, rows)
    replay.accept(copy, rows)
    assert replay.differences(copy, rows) == []
    worse = replay.replay(
        copy, load(EdgeConfig, None, [f"bundle={small_bundle()}", "trigger.item_share=0.9"])
    )
    assert replay.differences(copy, worse)[0] == "0 items; the reference has 6"
    changed = [{**row, "stream": "glass"} for row in rows]
    first = next(i for i, row in enumerate(rows) if row["stream"] != "glass")
    wanted = f"item {first + 1}: stream is 'glass'; the reference has {rows[first]['stream']!r}"
    assert replay.differences(copy, changed)[0] == wanted


@pytest.mark.parametrize(("decision", "found"), [("unknown", 0), ("unsure", 1), ("known", 1)])
def test_a_replay_compares_the_label_of_whatever_is_not_unknown(
    tmp_path: Path, decision: str, found: int
) -> None:
    row = {"frame": 3, "label": "glass", "decision": decision, "stream": "residual"}
    rows = [{**row, "confidence": 0.2, "frames_used": 1}]
    copy = tmp_path / "one.avi"
    replay.accept(copy, rows)
    assert len(replay.differences(copy, [{**rows[0], "label": "metal"}])) == found
    assert replay.differences(copy, [{**rows[0], "decision": "fault", "label": "metal"}])
