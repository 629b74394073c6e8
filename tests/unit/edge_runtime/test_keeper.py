"""Between frames: disks that refuse, hazards and alarms, uplinks that cannot be opened."""

import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_bundle import small_bundle
from typer.testing import CliRunner

from configs import load
from edge_runtime import replay
from edge_runtime.actuate import SimulatedLid
from edge_runtime.app import run
from edge_runtime.classify import Classified, Classifier
from edge_runtime.commands import app as edge
from edge_runtime.config import EdgeConfig
from edge_runtime.health import remember_hazard
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.uplink import Answer
from vision.decision import Decision, DecisionKind, Prediction
from vision.errors import ActuatorError, UplinkError
from vision.events import Receipt
from vision.frames import Frame
from vision.wire import decode_batch, encode_receipt

ROOT = Path(__file__).parents[3]
_PREDICTION = Prediction(
    label="hazardous", confidence=0.6, second_label="", margin=0.6, unknown_score=0.0
)
RECORDING = ROOT / "tests" / "replay" / "six-items.avi"
SMALL = ("camera.width_px=160", "camera.height_px=120", "camera.fps=0", f"bundle={small_bundle()}")


def _config(tmp_path: Path, *more: str) -> EdgeConfig:
    return load(EdgeConfig, None, [*SMALL, "camera.items=6", f"state={tmp_path / 'state'}", *more])


def test_a_hazard_outlives_a_power_cut_until_a_person_says_that_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[str] = []
    noted: list[bool] = []
    config = _config(tmp_path, "camera.items=2")

    def alarm(self: SimulatedLid, reason: str) -> None:
        alarms.append(reason)
        noted.append((config.state / "hazard.txt").is_file())

    monkeypatch.setattr(SimulatedLid, "alarm", alarm)
    state = config.state
    hazardous = Decision(DecisionKind.HAZARD, "hazardous", "hazardous at 0.60")
    with monkeypatch.context() as patch:
        patch.setattr(
            Classifier, "classify", lambda *_: Classified(_PREDICTION, hazardous, 1.0, 1.0)
        )
        run(config)
    assert alarms == ["hazardous at 0.60"] * 2
    assert noted == [True] * 2  # before the alarm: a controller that is silent takes seconds
    for message in ("hazardous at 0.60", ""):
        health = run(config)  # the world has ended: no item comes
        assert (health.items, health.hazard) == (0, message)
        assert json.loads((state / "health.json").read_text())["hazard"] == message
        assert alarms == ["hazardous at 0.60"] * 3
        done = CliRunner().invoke(edge, ["hazard-gone", f"--set=state={state}"])
        assert done.exit_code == 0
        assert ("forgotten" in done.output) == bool(message)


def test_an_alarm_that_failed_is_tried_again_until_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, "camera.items=3")
    tries = []

    def alarm(self: SimulatedLid, reason: str) -> None:
        tries.append(reason)
        if len(tries) < 4:
            raise ActuatorError("no controller answers")

    monkeypatch.setattr(SimulatedLid, "alarm", alarm)
    config.state.mkdir(parents=True)
    remember_hazard(config.state, "hazardous at 0.60")
    with monkeypatch.context() as patch:
        patch.setattr("edge_runtime.keeper._ALARM_FIRST_S", 0.0)
        health = run(config)
    assert len(tries) == 4
    assert (health.alarm_failed, health.items) == ("", 3)
    tries.clear()
    run(_config(tmp_path / "b", "camera.items=3"))
    remember_hazard(tmp_path / "b" / "state", "hazardous at 0.60")
    run(_config(tmp_path / "b", "camera.items=3"))
    assert len(tries) <= 2  # a controller that is silent for seconds does not hold up every frame


def test_a_disk_that_takes_nothing_has_events_held_in_memory_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the outbox's folder should be.

    SQLite cannot open it, as on a full or a read-only disk.
    """
    config = _config(tmp_path, "camera.items=6")
    (config.state / "outbox.sqlite").mkdir(parents=True)
    monkeypatch.setattr("edge_runtime.keeper._HEALTH_EVERY_S", 0.0)
    seen: list[tuple[bool, str]] = []
    serve = Pipeline.serve

    def watched(pipeline: Pipeline, frame: Frame) -> Any:
        event = serve(pipeline, frame)
        seen.append((pipeline.outbox.in_memory, pipeline.health.storage))
        if len(seen) == 3:
            (config.state / "outbox.sqlite").rmdir()
        return event

    monkeypatch.setattr(Pipeline, "serve", watched)
    health = run(config)
    assert (health.items, health.unrecorded, health.storage) == (6, 0, "")
    assert [memory for memory, _ in seen] == [True] * 3 + [False] * 3
    assert "held in memory" in seen[0][1]
    with Outbox(config.state / "outbox.sqlite", config.bin_id) as outbox:
        assert outbox.depth() == 6


class _Hub:
    """A hub that notes what it was given, under the names that the bin gave."""

    taken: ClassVar[set[tuple[str, int]]] = set()
    down: ClassVar[bool] = True

    def post(self, body: bytes) -> Answer:
        if self.down:
            raise UplinkError("connection refused")
        batch = decode_batch(body)
        self.taken.update((batch.outbox_id, number) for number, _ in batch.events)
        return Answer(200, encode_receipt(Receipt(batch.outbox_id, batch.events[-1][0])))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("hub", [False, True], ids=["no hub", "a hub"])
def test_a_disk_that_is_full_while_the_bin_runs_costs_no_event(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool
) -> None:
    way = (
        ["uplink.url=http://hub", "uplink.interval_s=0.02", "uplink.backoff_max_s=0.02"]
        if hub
        else []
    )
    config = _config(tmp_path, "camera.kind=file", f"camera.source={RECORDING}", *way)
    monkeypatch.setattr("edge_runtime.keeper._HEALTH_EVERY_S", 0.0)
    monkeypatch.setattr("edge_runtime.keeper.open_transport", lambda *_: _Hub())
    monkeypatch.setattr(_Hub, "taken", set())
    monkeypatch.setattr(_Hub, "down", True)
    seen: list[tuple[bool, str]] = []
    serve = Pipeline.serve

    def watched(pipeline: Pipeline, frame: Frame) -> Any:
        event = serve(pipeline, frame)
        seen.append((pipeline.outbox.in_memory, pipeline.health.storage))
        if len(seen) == 2:
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={small_disk / 'filler'}"],
                check=False,
                capture_output=True,
            )
        elif len(seen) == 4:
            (small_disk / "filler").unlink()
        elif len(seen) == 5:
            _Hub.down = False
        return event

    monkeypatch.setattr(Pipeline, "serve", watched)
    health = run(config)
    assert [memory for memory, _ in seen] == [False, False, True, True, False, False]
    assert "held in memory" in seen[3][1]
    assert (health.items, health.unrecorded, health.faults) == (6, 0, 0)
    with Outbox(small_disk / "outbox.sqlite", config.bin_id) as outbox:
        assert outbox.depth() == (0 if hub else 6)
        names = {name for name, _ in _Hub.taken}
        assert (len(_Hub.taken), len(names)) == ((6, 2) if hub else (0, 0))


@pytest.mark.parametrize("reason", ["ca=/no/such/ca.pem", "url=mqtts://hub:99999"])
def test_an_uplink_that_cannot_be_opened_does_not_keep_a_bin_from_serving(
    tmp_path: Path, reason: str
) -> None:
    config = _config(tmp_path, "uplink.url=https://hub", f"uplink.{reason}")
    health = run(config)
    assert health.items == 6
    # Without the package for MQTT that is reported instead of the port.
    assert (
        reason.partition("=")[2] in health.alarm or "pip install 'binsight[mqtt]'" in health.alarm
    )
    with Outbox(config.state / "outbox.sqlite", config.bin_id) as outbox:
        assert outbox.depth() == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_uplink_whose_thread_dies_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """What a library of another language throws: no Exception."""

    class Panics(_Hub):
        left = 1

        def post(self, body: bytes) -> Answer:
            if Panics.left:
                Panics.left -= 1
                raise Panic
            return super().post(body)

    monkeypatch.setattr("edge_runtime.keeper.open_transport", lambda *_: Panics())
    monkeypatch.setattr(_Hub, "taken", set())
    monkeypatch.setattr(_Hub, "down", False)
    config = _config(tmp_path, "camera.fps=10", "uplink.url=http://hub", "uplink.interval_s=0.02")
    health = run(config, drain_s=10)
    assert (health.items, len(_Hub.taken), Panics.left) == (6, 6, 0)


def test_a_bin_starts_and_serves_on_a_read_only_disk_though_its_outbox_is_damaged(
    small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "outbox.sqlite").write_bytes(b"damaged" * 1000)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    health = run(_config(tmp_path, "camera.kind=file", f"camera.source={RECORDING}"))
    assert health.items == len(
        replay.replay(RECORDING, load(EdgeConfig, None, [f"bundle={small_bundle()}"]))
    )
    assert (health.unrecorded, "held in memory" in health.storage) == (0, True)
