"""What a bin does beside serving: hazards and their alarm, the runner's pauses, the watchdog."""

import json
from pathlib import Path

import pytest
from simulators import FakeLid, ManualClock
from small_bundle import small_bundle
from typer.testing import CliRunner

from configs import load
from edge_runtime.app import run
from edge_runtime.bin import Timing
from edge_runtime.classify import Classified, Classifier
from edge_runtime.commands import app as edge
from edge_runtime.config import EdgeConfig
from edge_runtime.guard import Faults
from edge_runtime.lids.actuator import Actuator
from edge_runtime.lids.simulated import SimulatedLid
from edge_runtime.services.hazard import Hazard, remember_hazard, remembered_hazard
from edge_runtime.services.runner import Runner
from vision.decision import Decision, DecisionKind, Prediction

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


def test_a_hazard_that_the_disk_does_not_take_is_noted_when_it_does(tmp_path: Path) -> None:
    (tmp_path / "hazard.txt").mkdir()
    hazard = Hazard(tmp_path, Actuator(FakeLid(("residual",))), Timing())
    hazard.report(HAZARD)
    with pytest.raises(OSError, match="directory"):
        hazard.step(0.0)
    (tmp_path / "hazard.txt").rmdir()
    hazard.step(0.0)
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
    often, rarely, failing = _Counting(0.0), _Counting(1000.0), _Counting(0.0)
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


def test_a_full_disk_is_logged_once_and_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    full = _Counting(0.0)
    full.error = OSError(28, "No space left on device")
    faults = Faults()
    runner = Runner([full], faults)
    for now_ms in range(0, 10_000, 100):
        runner.step(float(now_ms))
    assert len(full.steps) > 3
    assert (faults.count, caplog.text.count("No space left")) == (0, 1)
