"""One item after the other on a simulated chute, with faults made on purpose."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulators import FakeLid, ManualClock, ScriptedCamera

from configs import load
from edge_runtime.app import Loop
from edge_runtime.bin import Parts, Timing
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.classify import Classified, Classifier
from edge_runtime.config import EdgeConfig, TriggerConfig
from edge_runtime.delivery import Delivery
from edge_runtime.guard import Faults
from edge_runtime.lids.actuator import Actuator
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.services.hazard import Hazard
from edge_runtime.services.runner import Runner, Service
from edge_runtime.trigger import Trigger
from vision.decision import Prediction, decide
from vision.errors import BundleError, CameraError, StorageError
from vision.events import ItemEvent
from vision.frames import Frame, Pixels
from vision.simulator.world import SimulatedItems, World, read_ledger
from vision.taxonomy import MATERIALS_1
from vision.wire import decode_batch, encode_batch

TIMING = Timing(retry_s=0.0, blind_opens_ms=3000.0)


class _Bin:
    """A bin on a simulated chute whose parts a test may replace, and its loop."""

    def __init__(
        self,
        tmp_path: Path,
        bundle: Path,
        fails: Callable[[int], str] = lambda read: "",
        services: tuple[Service, ...] = (),
        host_power_w: float = 0.0,
    ) -> None:
        self.truth = tmp_path / "truth.jsonl"
        self.world = World(SimulatedItems(1), 4, (160, 120), 1, self.truth)
        self.rules = load_rules(EdgeConfig().rules)
        self.clock = ManualClock()
        self.camera = ScriptedCamera(self.world, self.clock, fails)
        self.classifier = Classifier(bundle)
        self.lid = FakeLid(self.rules.streams, self.world)
        self.actuator = Actuator(self.lid)
        parts = Parts(
            camera=self.camera,
            monitor=CameraMonitor(5.0),
            trigger=Trigger(TriggerConfig()),
            classifier=self.classifier,
            rules=self.rules,
            actuator=self.actuator,
            clock=self.clock,
            host_power_w=host_power_w,
        )
        config = load(EdgeConfig, None, [f"state={tmp_path}"])
        self.pipeline = Pipeline(parts, TIMING)
        self.delivery = Delivery(config, self.clock, TIMING)
        self.hazard = Hazard(tmp_path, self.actuator, TIMING)
        self.faults = Faults()
        self.runner = Runner(services, self.faults)
        self.state = tmp_path

    def run(self) -> list[ItemEvent]:
        """Serve until the chute has seen its last item; return the events in the outbox."""
        loop = Loop(self.pipeline, self.delivery, self.hazard, self.runner, TIMING)
        loop.run(threading.Event())
        self.delivery.close()
        with Outbox(self.state / "outbox.sqlite", None) as outbox:
            batch = outbox.peek(100)
        return [event for _, event in batch.events] if batch else []

    def cleared(self) -> list[str]:
        """Return the streams to which the lid cleared the chute."""
        return [line.stream for line in read_ledger(self.truth) if line.what == "cleared"]

    def says(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, float]) -> None:
        """Have the classifier answer so, one answer a frame, the last one for ever."""
        left = list(answers)
        policy = self.classifier.manifest.policy
        labels = ("glass", "paper", "hazardous")

        def classify(pixels: Pixels) -> Classified:
            label, confidence = left.pop(0) if len(left) > 1 else left[0]
            rest = (1 - confidence) / (len(labels) - 1)
            probabilities = {name: confidence if name == label else rest for name in labels}
            prediction = Prediction(
                label, confidence, "paper", confidence - rest, 0.0, probabilities
            )
            return Classified(prediction, decide(prediction, policy, MATERIALS_1), 1.0, 2.0)

        monkeypatch.setattr(self.classifier, "classify", classify)


def test_a_fault_in_the_classifier_opens_the_lid_to_residual_and_the_bin_goes_on(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    run = bin_.classifier._session
    broken = [True]

    class Session:
        def run(self, *arguments: object) -> object:
            if broken:
                broken.pop()
                raise MemoryError("no room for a tensor")
            return run.run(*arguments)

    monkeypatch.setattr(bin_.classifier, "_session", Session())
    events = bin_.run()
    assert bin_.cleared()[0] == bin_.rules.fallback
    assert [event.decision == "fault" for event in events] == [True, False, False, False]
    assert "no room for a tensor" in events[0].reason
    status = bin_.pipeline.status()
    assert (len(bin_.cleared()), status.faults, status.items, bin_.faults.count) == (4, 1, 4, 0)


def test_a_fault_on_a_further_frame_serves_by_the_first(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    bin_.says(monkeypatch, ("paper", 0.4))
    unsure = bin_.classifier.classify
    calls: list[int] = []

    def classify(pixels: Pixels) -> Classified:
        calls.append(1)
        if len(calls) == 2:
            raise BundleError("the graph failed")
        return unsure(pixels)

    monkeypatch.setattr(bin_.classifier, "classify", classify)
    first = bin_.run()[0]
    assert (first.decision, first.label, first.frames_used) == ("unsure", "paper", 1)


def test_a_flap_that_is_stuck_does_not_count_as_recycling(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    bin_.says(monkeypatch, ("glass", 0.99))
    bin_.lid.stuck = set(bin_.rules.streams) - {bin_.rules.fallback}
    events = bin_.run()
    assert {(event.label, event.stream, event.outcome, event.lid_fault) for event in events} == {
        ("glass", "residual", "fault", "the flap is stuck; opened residual instead")
    }
    assert bin_.pipeline.status().lid == "fault: the flap is stuck; opened residual instead"


def test_a_network_that_gives_nan_is_a_fault_whose_event_can_be_sent(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    healthy = bin_.classifier.classify

    def broken(pixels: Pixels) -> Classified:
        result = healthy(pixels)
        nan = float("nan")
        prediction = replace(result.prediction, confidence=nan, margin=nan, unknown_score=nan)
        decision = decide(prediction, bin_.classifier.manifest.policy, MATERIALS_1)
        return replace(result, prediction=prediction, decision=decision)

    monkeypatch.setattr(bin_.classifier, "classify", broken)
    events = bin_.run()
    with Outbox(tmp_path / "outbox.sqlite", None) as outbox:
        batch = outbox.peek(10)
    assert batch is not None
    assert decode_batch(encode_batch(batch)) == batch
    assert {(event.decision, event.stream, event.confidence) for event in events} == {
        ("fault", "residual", 0.0)
    }


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError()])
def test_a_service_that_fails_never_moves_the_lid(
    tmp_path: Path, bundle: Path, error: Exception
) -> None:
    class Failing:
        period_ms = 0.0

        def step(self, now_ms: float) -> None:
            raise error

    bin_ = _Bin(tmp_path, bundle, services=(Failing(),))
    events = bin_.run()
    assert [event.stream for event in events] == bin_.cleared()
    assert len(events) == 4
    # A full disk is no fault of the bin's.
    assert (bin_.faults.count > 0) == isinstance(error, ZeroDivisionError)


def test_an_outbox_that_refuses_is_counted_and_every_person_is_still_served(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)

    def refuse(outbox: Outbox, event: ItemEvent) -> int:
        raise StorageError("disk full")

    monkeypatch.setattr(Outbox, "append", refuse)
    bin_.run()
    assert len(bin_.cleared()) == 4
    assert bin_.delivery.status().unrecorded == 4


def test_a_camera_that_fails_and_recovers_costs_no_item(tmp_path: Path, bundle: Path) -> None:
    bin_ = _Bin(tmp_path, bundle, lambda read: "" if read % 3 else "camera 0: no frame for 5 s")
    assert len(bin_.run()) == 4
    assert (bin_.pipeline.status().items, bin_.faults.count) == (4, 0)


def test_an_item_that_is_not_clear_is_classified_again_and_the_answers_are_averaged(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle, host_power_w=5.0)
    bin_.says(monkeypatch, ("paper", 0.4), ("glass", 0.5), ("glass", 0.99))
    first, *others = bin_.run()
    assert (first.label, first.frames_used, first.inference_ms) == ("glass", 3, 6.0)
    assert first.confidence == pytest.approx((0.3 + 0.5 + 0.99) / 3, abs=1e-4)
    assert first.energy_mj == pytest.approx(5.0 * 9.0)
    assert [event.frames_used for event in others] == [1, 1, 1]  # clear at once: nobody waits


def test_a_camera_that_fails_between_two_frames_of_an_item_serves_it_by_the_first(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    bin_ = _Bin(tmp_path, bundle, lambda read: "unplugged" if seen and seen[-1] else "")
    bin_.says(monkeypatch, ("paper", 0.4), ("glass", 0.99))
    step = bin_.pipeline.step

    def watched(frame: Frame) -> ItemEvent | None:
        event = step(frame)
        seen.append(bin_.pipeline.busy)
        return event

    def without(problem: str) -> ItemEvent | None:
        seen.append(False)
        return Pipeline.without_frame(bin_.pipeline, problem)

    monkeypatch.setattr(bin_.pipeline, "step", watched)
    monkeypatch.setattr(bin_.pipeline, "without_frame", without)
    first = bin_.run()[0]
    assert (first.label, first.decision, first.frames_used) == ("paper", "unsure", 1)


def test_a_hazard_on_any_frame_opens_its_stream_is_stored_and_gives_the_alarm(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    hurried: list[int] = []
    monkeypatch.setattr(bin_.delivery, "hurry", lambda: hurried.append(bin_.delivery.depth()))
    bin_.says(monkeypatch, ("paper", 0.4), ("hazardous", 0.6), ("glass", 0.99))
    first = bin_.run()[0]
    assert (first.decision, first.stream, first.frames_used) == ("hazard", bin_.rules.hazard, 2)
    status = bin_.hazard.status()
    assert (status.hazards, status.hazard) == (1, first.reason)
    assert first.reason == "hazardous at 0.60"
    assert bin_.lid.alarms == [first.reason]
    assert hurried == [1]  # its event is stored before it is sent


def test_an_alarm_that_cannot_be_given_is_reported(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    bin_.lid.failing_alarms = 100
    bin_.says(monkeypatch, ("hazardous", 0.9))
    assert len(bin_.run()) == 4
    failed = bin_.hazard.status().alarm_failed
    assert failed.startswith("the alarm for a hazard could not be given")
    assert bin_.pipeline.status().lid == "ok"


def test_a_bin_that_does_not_see_for_long_empties_its_chute_to_residual_and_says_how_often(
    tmp_path: Path, bundle: Path
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    blind = set(range(9, 50))
    # The chute goes on while the camera does not see.
    camera = ScriptedCamera(bin_.world, bin_.clock)

    def read() -> Frame | None:
        frame = ScriptedCamera.read(camera)
        if camera.reads in blind:
            raise CameraError("camera 0: no frame for 3 s")
        return frame

    camera.read = read  # type: ignore[method-assign]
    bin_.pipeline.parts = replace(bin_.pipeline.parts, camera=camera)
    events = bin_.run()
    assert bin_.cleared()[0] == bin_.rules.fallback
    status = bin_.pipeline.status()
    assert status.blind_openings >= 1
    # What fell unseen is no item of the statistics.
    assert len(events) == status.items == len(bin_.cleared()) - 1


@pytest.mark.parametrize("fault", ["it never rests", "every step fails"])
def test_a_bin_that_cannot_work_for_long_empties_its_chute_to_residual_and_says_why(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    rng = np.random.default_rng(0)
    camera = ScriptedCamera(bin_.world, bin_.clock)

    def read() -> Frame | None:
        camera.reads += 1
        bin_.clock.advance(100)
        pixels = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        return Frame(pixels, camera.reads, bin_.clock.monotonic_ms) if camera.reads < 60 else None

    camera.read = read  # type: ignore[method-assign]
    bin_.pipeline.parts = replace(bin_.pipeline.parts, camera=camera)
    if fault == "every step fails":
        monkeypatch.setattr(bin_.pipeline.parts.trigger, "step", lambda frame: 1 / 0)
    assert bin_.run() == []
    status = bin_.pipeline.status()
    assert status.blind_openings >= 1
    assert (bin_.faults.count > 0) == (fault == "every step fails")
    assert status.chute.startswith("nothing rests") == (fault == "it never rests")


def test_the_snapshot_is_of_the_item_that_was_served(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = _Bin(tmp_path, bundle)
    bin_.says(monkeypatch, ("glass", 0.99))
    last = bin_.run()[-1]
    snapshot = bin_.pipeline.snapshot
    assert snapshot.event is not None
    assert (snapshot.event.label, snapshot.event.monotonic_ms) == (last.label, last.monotonic_ms)
    assert snapshot.stream_title == bin_.rules.streams["glass"]
    assert snapshot.item is not None
