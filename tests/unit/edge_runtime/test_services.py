"""What a bin does beside serving: hazards and their alarm, the runner's pauses, the watchdog."""

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from simulators import FakeLid, HubDouble, ManualClock, ScriptedCamera
from small_bundle import small_bundle
from typer.testing import CliRunner

from configs import load
from edge_runtime.app import run
from edge_runtime.bin import Parts, Timing
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.choose import choose
from edge_runtime.classify import Classified, Classifier
from edge_runtime.commands import app as edge
from edge_runtime.config import EdgeConfig, TriggerConfig
from edge_runtime.delivery import Delivery
from edge_runtime.guard import Faults
from edge_runtime.lids.actuator import Actuator
from edge_runtime.lids.simulated import SimulatedLid
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.services.hazard import Hazard, remember_hazard, remembered_hazard
from edge_runtime.services.reload import Reload
from edge_runtime.services.runner import Runner
from edge_runtime.services.watchdog import Watchdog
from edge_runtime.trigger import Trigger
from vision.decision import Decision, DecisionKind, Prediction
from vision.simulator.world import SimulatedItems, World

SMALL = ("camera.width_px=160", "camera.height_px=120", "camera.fps=0", f"bundle={small_bundle()}")
HAZARD = "hazardous at 0.60"


def test_a_hazard_outlives_a_power_cut_until_a_person_says_that_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[str] = []
    noted: list[bool] = []
    state = tmp_path / "state"
    config = load(EdgeConfig, None, [*SMALL, "camera.items=2", f"state={state}"])

    def alarm(self: SimulatedLid, reason: str) -> None:
        alarms.append(reason)
        noted.append((state / "hazard.txt").is_file())

    monkeypatch.setattr(SimulatedLid, "alarm", alarm)
    prediction = Prediction("hazardous", 0.6, "", 0.6, 0.0)
    hazardous = Decision(DecisionKind.HAZARD, "hazardous", HAZARD)
    with monkeypatch.context() as patch:
        patch.setattr(
            Classifier, "classify", lambda *_: Classified(prediction, hazardous, 1.0, 1.0)
        )
        run(config)
    assert alarms == [HAZARD] * 2
    assert noted == [True] * 2  # before the alarm: a controller that is silent takes seconds
    for reason in (HAZARD, ""):
        health = run(config)  # the world has ended: no item comes
        assert (health.items, health.hazard) == (0, reason)
        assert json.loads((state / "health.json").read_text())["hazard"] == reason
        assert alarms == [HAZARD] * 3
        done = CliRunner().invoke(edge, ["hazard-gone", f"--set=state={state}"])
        assert done.exit_code == 0
        assert ("forgotten" in done.output) == bool(reason)


def test_an_alarm_that_failed_is_given_again_after_pauses_that_double(tmp_path: Path) -> None:
    lid = FakeLid(("residual",))
    lid.failing_alarms = 4
    remember_hazard(tmp_path, HAZARD)
    clock = ManualClock()
    hazard = Hazard(tmp_path, Actuator(lid), Timing(alarm_retry_ms=1000, alarm_retry_max_ms=3000))
    tries: list[float] = []
    while not lid.alarms:
        before = lid.failing_alarms
        hazard.step(clock.monotonic_ms)
        if lid.failing_alarms < before or lid.alarms:
            tries.append(clock.monotonic_ms)
        clock.advance(100)
    assert tries == [0, 1000, 3000, 6000]
    assert hazard.status().alarm_failed == ""
    hazard.step(clock.monotonic_ms + 10_000)
    assert lid.alarms == [HAZARD]  # given once


def test_a_hazard_that_the_disk_does_not_take_is_noted_when_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hazard.txt").mkdir()
    hazard = Hazard(tmp_path, Actuator(FakeLid(("residual",))), Timing())
    hazard.report(HAZARD)
    hazard.step(0.0)
    assert caplog.text.count("hazard: [Errno") == 1  # a disk may be full for weeks
    (tmp_path / "hazard.txt").rmdir()
    hazard.step(4000.0)
    assert not (tmp_path / "hazard.txt").exists()
    hazard.step(5000.0)
    assert remembered_hazard(tmp_path) == HAZARD


class _Counting:
    """A service that fails as long as it is to."""

    def __init__(self, period_ms: float) -> None:
        self.period_ms = period_ms
        self.error: Exception | None = None
        self.steps: list[float] = []

    def step(self, now_ms: float) -> None:
        self.steps.append(now_ms)
        if self.error:
            raise self.error


def test_services_are_stepped_by_their_period_and_after_failures_ever_less() -> None:
    often = _Counting(0.0)
    rarely = _Counting(1000.0)
    failing = _Counting(0.0)
    failing.error = ValueError("a defect")
    faults = Faults()
    runner = Runner([often, failing, rarely], faults)
    for now_ms in range(0, 4001, 100):
        runner.step(float(now_ms))
    assert len(often.steps) == 41
    assert rarely.steps == [0, 1000, 2000, 3000, 4000]
    assert failing.steps == [0, 500, 1500, 3500]
    assert faults.count == 4
    failing.error = None
    runner.hurry()
    runner.step(4100.0)
    runner.step(4200.0)
    assert failing.steps[-2:] == [4100, 4200]


def test_what_the_loop_throws_is_a_fault_also_if_it_is_an_os_error() -> None:
    faults = Faults()
    full = _Counting(0.0)
    full.error = OSError(28, "No space left on device")
    runner = Runner([full], faults)
    runner.step_now(full, 0.0)
    assert faults.count == 0
    assert not runner.attempt("the bin's loop", lambda: full.step(0.0))
    assert faults.count == 1


def test_a_disk_that_does_not_take_the_hazard_does_not_delay_its_alarm(tmp_path: Path) -> None:
    (tmp_path / "hazard.txt").mkdir()
    lid = FakeLid(("residual",))
    lid.failing_alarms = 3
    hazard = Hazard(tmp_path, Actuator(lid), Timing(alarm_retry_ms=1000))
    runner = Runner([hazard], Faults())
    hazard.report(HAZARD)
    for now_ms in range(0, 3001, 100):
        runner.step(float(now_ms))
    assert lid.alarms == [HAZARD]  # tried at 0, 0, 1000 and 3000 ms


def test_a_full_disk_is_logged_once_and_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    full = _Counting(0.0)
    full.error = OSError(28, "No space left on device")
    faults = Faults()
    runner = Runner([full], faults)
    for now_ms in range(0, 10_000, 100):
        runner.step(float(now_ms))
    assert full.steps == [0, 5000]  # it may take something any time: no pause that doubles
    assert (faults.count, caplog.text.count("No space left")) == (0, 1)


class _Systemd:
    """Somebody in systemd's place."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))

    def heard(self) -> str:
        try:
            return self._socket.recv(4096).decode()
        except BlockingIOError:
            return ""


def test_systemd_hears_nothing_of_a_bin_whose_driver_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    systemd = _Systemd(tmp_path, monkeypatch)
    pipeline = _pipeline(bundle)
    watchdog = Watchdog(pipeline, Timing())
    watchdog.step(0.0)
    assert systemd.heard() == "WATCHDOG=1\nSTATUS=camera starting, 0 items"
    pipeline.parts.camera.hung = True  # type: ignore[misc]
    watchdog.step(5000.0)
    assert systemd.heard() == ""


def test_a_reload_swaps_the_parts_whole_or_leaves_the_bin_as_it_was(
    tmp_path: Path, bundle: Path
) -> None:
    config = load(EdgeConfig, None, [f"state={tmp_path}", f"bundle={bundle}"])
    new = [config]
    pipeline = _pipeline(bundle)
    before = pipeline.parts
    delivery = Delivery(config, before.clock, Timing(), lambda *_: HubDouble())
    asked = threading.Event()
    chosen = choose(bundle, 1)
    reload = Reload(config, pipeline, delivery, chosen, [], asked, lambda: new[0])
    reload.step(0.0)
    assert pipeline.parts is before  # nobody asked

    def ask(*overrides: str) -> str:
        new[0] = load(EdgeConfig, None, [f"state={tmp_path}", f"bundle={bundle}", *overrides])
        asked.set()
        reload.step(0.0)
        return reload.status().settings

    assert ask("uplink.url=http://hub", "rules=cn-shanghai").startswith("the old ones hold: rules")
    assert (pipeline.parts is before, delivery.connected) == (True, False)
    assert ask("uplink.url=http://hub", "trigger.adapt=0.5", "max_frames_per_item=1") == "ok"
    after = pipeline.parts
    assert (after.trigger.config.adapt, after.max_frames_per_item) == (0.5, 1)
    assert (before.max_frames_per_item, delivery.connected) == (3, True)
    assert ask("trigger.adapt=0.5") == "ok"
    assert (delivery.connected, delivery.status().uplink) == (False, "off")
    delivery.close()


def test_the_lid_rests_at_the_fallback_of_the_rule_book_of_now(bundle: Path) -> None:
    pipeline = _pipeline(bundle)
    rules = pipeline.parts.rules.model_copy(update={"fallback": "paper"})
    pipeline.parts = replace(pipeline.parts, rules=rules)
    pipeline.close()
    assert (LID.opened[-1], LID.closed) == ("paper", True)


LID = FakeLid(load_rules(EdgeConfig().rules).streams)


def _pipeline(bundle: Path) -> Pipeline:
    clock = ManualClock()
    world = World(SimulatedItems(1), 1, (160, 120), 1)
    parts = Parts(
        camera=ScriptedCamera(world, clock),
        monitor=CameraMonitor(5.0),
        trigger=Trigger(TriggerConfig()),
        classifier=Classifier(bundle),
        rules=load_rules(EdgeConfig().rules),
        actuator=Actuator(LID),
        clock=clock,
    )
    return Pipeline(parts)
