"""The whole bin on a simulated chute, with faults made on purpose."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs import load
from edge_runtime.actuate import Actuator, SimulatedLid
from edge_runtime.app import run
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.capture import LiveCamera, VideoFile, WorldCamera, open_camera
from edge_runtime.classify import Classified, Classifier
from edge_runtime.clock import SystemClock
from edge_runtime.config import CameraConfig, EdgeConfig, TriggerConfig
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from vision.decision import Decision, DecisionKind, Prediction, decide
from vision.errors import ActuatorError, CameraError, DatasetError, StorageError
from vision.events import ItemEvent
from vision.frames import Camera, Frame, Pixels
from vision.simulator.world import SimulatedItems, World, read_ledger
from vision.taxonomy import MATERIALS_1
from vision.wire import decode_batch, encode_batch


def _config(tmp_path: Path, *more: str) -> EdgeConfig:
    small = [
        "camera.width_px=160",
        "camera.height_px=120",
        "camera.fps=0",
        "camera.items=6",
        f"state={tmp_path / 'state'}",
    ]
    return load(EdgeConfig, None, [*small, *more])


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


class _Parts:
    """A pipeline on a simulated chute whose parts a test may replace."""

    def __init__(
        self,
        tmp_path: Path,
        bundle: Path,
        camera: Callable[[World], Camera] | None = None,
        every_frame: Callable[[], None] = lambda: None,
    ) -> None:
        self.world = World(SimulatedItems(1), 4, (160, 120), 1, tmp_path / "truth.jsonl")
        self.rules = load_rules(EdgeConfig().rules)
        self.health = Health("b")
        self.clock = SystemClock()
        self.classifier = Classifier(bundle)
        self.outbox = Outbox(tmp_path / "o.sqlite", "b")
        self.lid = SimulatedLid(tuple(self.rules.streams), self.world)
        self.pipeline = Pipeline(
            camera(self.world) if camera else WorldCamera(self.world, 0, self.clock),
            CameraMonitor(5.0),
            Trigger(TriggerConfig()),
            self.classifier,
            self.rules,
            Actuator(self.lid, self.rules.fallback),
            self.outbox,
            self.clock,
            self.health,
            every_frame=every_frame,
        )


def test_a_fault_in_the_classifier_opens_the_lid_to_residual_and_the_bin_goes_on(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    healthy = parts.classifier.classify
    broken = [True]
    monkeypatch.setattr(
        parts.classifier, "classify", lambda pixels: broken.pop() / 0 if broken else healthy(pixels)
    )
    parts.pipeline.run(threading.Event())
    cleared = [
        line.stream for line in read_ledger(tmp_path / "truth.jsonl") if line.what == "cleared"
    ]
    assert cleared[0] == parts.rules.fallback
    assert (len(cleared), parts.health.faults, parts.health.items, parts.outbox.depth()) == (
        4,
        1,
        4,
        4,
    )
    batch = parts.outbox.peek(10)
    assert batch is not None
    assert [event.decision == "fault" for _, event in batch.events] == [True, False, False, False]


def test_a_flap_that_is_stuck_is_not_told_as_recycling(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    moves = parts.lid.open

    def stuck(stream: str) -> None:
        if stream != parts.rules.fallback:
            raise ActuatorError("the flap is stuck")
        moves(stream)

    glass = Classified(
        Prediction("glass", 0.99, "plastic", 0.98, 0.0),
        Decision(DecisionKind.KNOWN, "glass", "0.99"),
        0.1,
        2.0,
    )
    monkeypatch.setattr(parts.classifier, "classify", lambda _: glass)
    monkeypatch.setattr(parts.lid, "open", stuck)
    parts.pipeline.run(threading.Event())
    batch = parts.outbox.peek(10)
    assert batch is not None
    assert {
        (event.label, event.stream, event.outcome, event.lid_fault) for _, event in batch.events
    } == {("glass", "residual", "fault", "the flap is stuck; opened residual instead")}


def test_a_network_that_gives_nan_is_a_fault_whose_event_can_be_sent(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    healthy = parts.classifier.classify

    def broken(pixels: Pixels) -> Classified:
        result = healthy(pixels)
        nan = float("nan")
        prediction = replace(result.prediction, confidence=nan, margin=nan, unknown_score=nan)
        return replace(
            result,
            prediction=prediction,
            decision=decide(prediction, parts.classifier.manifest.policy, MATERIALS_1),
        )

    monkeypatch.setattr(parts.classifier, "classify", broken)
    parts.pipeline.run(threading.Event())
    batch = parts.outbox.peek(10)
    assert batch is not None
    assert decode_batch(encode_batch(batch)) == batch
    assert {(event.decision, event.stream, event.confidence) for _, event in batch.events} == {
        ("fault", "residual", 0.0)
    }


def test_housekeeping_that_fails_never_moves_the_lid(tmp_path: Path, bundle: Path) -> None:
    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    parts = _Parts(tmp_path, bundle, every_frame=full_disk)
    parts.pipeline.run(threading.Event())
    cleared = [
        line.stream for line in read_ledger(tmp_path / "truth.jsonl") if line.what == "cleared"
    ]
    batch = parts.outbox.peek(10)
    assert batch is not None
    assert [event.stream for _, event in batch.events] == cleared
    assert len(cleared) == 4
    assert parts.health.faults > 4


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


def test_a_video_file_is_read_to_its_end_and_a_live_camera_gives_its_newest_frame(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "recording.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    recording = VideoFile(path, SystemClock())
    clock = SystemClock()
    frames = []
    while (frame := recording.read()) is not None:
        frames.append(frame)
    recording.close()
    assert [frame.sequence for frame in frames] == list(range(1, 13))
    assert [round(frame.pixels_hwc.mean() / 20) for frame in frames] == list(range(12))
    live = LiveCamera(lambda: cv2.VideoCapture(path), path, 5.0, clock)
    numbers = [live.read() for _ in range(3)]
    live.close()
    sequence = [frame.sequence for frame in numbers if frame]
    assert len(sequence) == 3
    assert sequence == sorted(set(sequence))


def test_rule_books_that_ship_go_by_name_and_a_device_by_number(tmp_path: Path) -> None:
    config = load(EdgeConfig, None, ["rules=eu-low", "camera.source=0"])
    assert (load_rules(config.rules).id, config.camera.source) == ("eu-low", "0")
    with pytest.raises(DatasetError, match="labels not in taxonomy"):
        open_camera(CameraConfig(labels=("wood",)), tmp_path, SystemClock())


def test_an_outbox_that_refuses_is_counted_and_every_person_is_still_served(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)

    def refuse(event: ItemEvent) -> int:
        raise StorageError("disk full")

    monkeypatch.setattr(parts.outbox, "append", refuse)
    parts.pipeline.run(threading.Event())
    assert [line.what for line in read_ledger(tmp_path / "truth.jsonl")].count("cleared") == 4
    assert parts.health.unrecorded == 4


def test_a_camera_that_fails_and_recovers_costs_no_item(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flaky:
        def __init__(self, world: World) -> None:
            self.inner = WorldCamera(world, 0, SystemClock())
            self.reads = 0

        def read(self) -> Frame | None:
            self.reads += 1
            if self.reads % 3 == 0:
                raise CameraError("camera 0: no frame for 5 s")
            return self.inner.read()

        def restart(self) -> None:
            self.inner.restart()

        def close(self) -> None:
            self.inner.close()

    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    parts = _Parts(tmp_path, bundle, Flaky)
    parts.pipeline.run(threading.Event())
    assert (parts.health.items, parts.outbox.depth(), parts.health.faults) == (4, 4, 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "file", "source": "none.mp4"}, r"camera none\.mp4: cannot be opened"),
        ({"kind": "folder", "source": "none"}, "no such folder"),
    ],
)
def test_cameras_that_are_not_there_say_what_to_check(
    tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    with pytest.raises(CameraError, match=complaint):
        open_camera(CameraConfig.model_validate(change), tmp_path, SystemClock())


def _says(parts: _Parts, monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, float]) -> None:
    """Have the classifier answer so, one answer a look, the last one for ever."""
    left = list(answers)
    policy = parts.classifier.manifest.policy
    labels = ("glass", "paper", "hazardous")

    def classify(pixels: Pixels) -> Classified:
        label, confidence = left.pop(0) if len(left) > 1 else left[0]
        rest = (1 - confidence) / (len(labels) - 1)
        probabilities = {name: confidence if name == label else rest for name in labels}
        prediction = Prediction(label, confidence, "paper", confidence - rest, 0.0, probabilities)
        return Classified(prediction, decide(prediction, policy, MATERIALS_1), 1.0, 2.0)

    monkeypatch.setattr(parts.classifier, "classify", classify)


def _events(parts: _Parts) -> list[ItemEvent]:
    batch = parts.outbox.peek(10)
    return [event for _, event in batch.events] if batch else []


def test_an_item_that_is_not_clear_is_looked_at_again_and_the_looks_are_averaged(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    parts.pipeline.host_power_w = 5.0
    _says(parts, monkeypatch, ("paper", 0.4), ("glass", 0.5), ("glass", 0.99))
    parts.pipeline.run(threading.Event())
    first, *others = _events(parts)
    assert (first.label, first.frames_used, first.inference_ms) == ("glass", 3, 6.0)
    assert first.confidence == pytest.approx((0.3 + 0.5 + 0.99) / 3, abs=1e-4)
    assert first.energy_mj == pytest.approx(5.0 * 9.0)
    assert [event.frames_used for event in others] == [
        1,
        1,
        1,
    ]  # clear at the first look: nobody waits


def test_a_hazard_in_any_look_opens_its_stream_gives_the_alarm_and_hurries(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    hurried = []
    parts.pipeline.on_hazard = lambda: hurried.append(parts.outbox.depth())
    _says(parts, monkeypatch, ("paper", 0.4), ("hazardous", 0.6), ("glass", 0.99))
    parts.pipeline.run(threading.Event())
    first = _events(parts)[0]
    assert (first.decision, first.stream, first.frames_used) == ("hazard", parts.rules.hazard, 2)
    assert parts.health.hazards == 1
    assert parts.health.hazard == first.reason == "hazardous at 0.60"
    assert parts.lid.alarms == [first.reason]
    assert hurried == [1]  # its event is stored before it is sent


def test_an_alarm_that_cannot_be_given_is_reported(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, bundle)
    monkeypatch.setattr(parts.lid, "alarm", lambda reason: 1 / 0)
    _says(parts, monkeypatch, ("hazardous", 0.9))
    parts.pipeline.run(threading.Event())
    assert parts.health.alarm_failed.startswith("the alarm for a hazard could not be given")
    assert parts.health.lid == "ok"
    assert len(_events(parts)) == 4


def test_a_bin_that_does_not_see_for_long_empties_its_chute_to_residual_and_says_how_often(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind:
        def __init__(self, world: World) -> None:
            self.inner = WorldCamera(world, 0, SystemClock())
            self.reads = 0

        def read(self) -> Frame | None:
            self.reads += 1
            frame = self.inner.read()  # the street goes on
            if 8 < self.reads < 14:
                time.sleep(0.1)
                raise CameraError("camera 0: no frame for 3 s")
            return frame

        def restart(self) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    monkeypatch.setattr("edge_runtime.pipeline._BLIND_OPENS_MS", 300.0)
    parts = _Parts(tmp_path, bundle, Blind)
    parts.pipeline.run(threading.Event())
    ledger = read_ledger(tmp_path / "truth.jsonl")
    cleared = [line.stream for line in ledger if line.what == "cleared"]
    assert cleared[0] == parts.rules.fallback
    assert parts.health.blind_openings >= 1
    assert parts.health.items == len(cleared) - 1  # what fell unseen is no item of the statistics


@pytest.mark.parametrize("fault", ["it never rests", "every step fails"])
def test_a_bin_that_cannot_work_for_long_empties_its_chute_to_residual_and_says_reason(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    rng = np.random.default_rng(0)

    class Restless:
        def __init__(self, world: World) -> None:
            self.reads = 0

        def read(self) -> Frame | None:
            self.reads += 1
            time.sleep(0.01)
            pixels = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(20, 0).repeat(20, 1)
            return Frame(pixels, self.reads, 1000 * time.monotonic()) if self.reads < 60 else None

        def restart(self) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    monkeypatch.setattr("edge_runtime.pipeline._BLIND_OPENS_MS", 200.0)
    parts = _Parts(tmp_path, bundle, Restless)
    if fault == "every step fails":
        monkeypatch.setattr(parts.pipeline.trigger, "step", lambda frame: 1 / 0)
    parts.pipeline.run(threading.Event())
    assert parts.health.blind_openings >= 1
    assert parts.health.items == 0
    assert (parts.health.faults > 0) == (fault == "every step fails")
    assert parts.health.chute.startswith("nothing rests") == (fault == "it never rests")
