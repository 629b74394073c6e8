"""One straight line from frame to event.

The person at the bin comes first: nothing slow stands before the lid.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.actuate import Actuator
from edge_runtime.camera_monitor import CameraMonitor, measure
from edge_runtime.classify import Classified, Classifier
from edge_runtime.clock import Clock
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.rules import RuleBook
from edge_runtime.trigger import State, Trigger
from vision.decision import Decision, DecisionKind, Prediction, combine, decide
from vision.errors import CameraError, StorageError
from vision.events import ItemEvent, Outcome
from vision.frames import Camera, Frame

log = logging.getLogger(__name__)

_RETRY_S = 0.5
# A bin that does not see, or before which nothing rests, empties its chute to residual so often:
# people go on throwing, and flaps wear.
_BLIND_OPENS_MS = 300_000.0
_NOTHING = Prediction(label="", confidence=0.0, second_label="", margin=0.0, unknown_score=0.0)


def _lost(error: StorageError) -> Outbox:
    raise error


@dataclass(slots=True, eq=False)
class Pipeline:
    """The parts of one bin, each given from outside.

    Between two frames any of them may be replaced by a new one.

    Attributes:
        max_frames_per_item: frames of one item that are classified at most.
        host_power_w: what the board draws while it computes, watts.
        on_hazard: called once the event of a hazard is stored.
        without_disk: called when the outbox refuses an event; returns the one that takes it, or
            raises the error again.
        every_frame: called after each frame, and after each try for one: health, reference, reload.
        frame, event, served: the last frame, the last event and the frame it was made of, for
            people to look at.
    """

    camera: Camera
    camera_monitor: CameraMonitor
    trigger: Trigger
    classifier: Classifier
    rules: RuleBook
    actuator: Actuator
    outbox: Outbox
    clock: Clock
    health: Health
    max_frames_per_item: int = 3
    host_power_w: float = 0.0
    on_hazard: Callable[[], None] = lambda: None
    without_disk: Callable[[StorageError], Outbox] = _lost
    every_frame: Callable[[], None] = lambda: None
    frame: Frame | None = None
    event: ItemEvent | None = None
    served: Frame | None = None
    _saw_ms: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Serve until the camera ends or `stop` is set; a fault is counted and the bin goes on."""
        while not stop.is_set():
            try:
                if not self.step():
                    return
            except CameraError as error:
                self._say_camera(str(error))
                self._open_if_long_blind()
                stop.wait(_RETRY_S)
            except Exception:  # noqa: BLE001
                self._count_fault("the bin's loop")
                self._open_if_long_blind()
                stop.wait(_RETRY_S)
            try:
                self.every_frame()
            except Exception:  # noqa: BLE001
                self._count_fault("housekeeping")

    def step(self) -> bool:
        """Take in one frame and serve the item that it shows at rest, if any.

        Return False when the camera has ended.

        Raises:
            CameraError: there is no frame now.
        """
        frame = self.camera.read()
        if frame is None:
            return False
        self.frame = frame
        self.health.frames = self.health.frames + 1
        status = self.camera_monitor.check(frame, self.trigger.state is State.EMPTY)
        self._say_camera(status.fault or "ok")
        if status.restart:
            self.camera.restart()
        if status.blind:
            self._open_if_long_blind()
            return True
        item = self.trigger.step(frame)
        if item or self.trigger.state is State.EMPTY:
            self._saw_ms = frame.monotonic_ms
            self.health.chute = "ok"
        elif self._open_if_long_blind():
            self.health.chute = (
                "nothing rests before the camera: something moves there, or the camera does"
            )
            self.trigger.relearn()
        if item:
            self.serve(frame)
        return True

    def serve(self, frame: Frame) -> ItemEvent:
        """Classify one item, move the lid, store the event; return it, stored or not.

        A classifier that fails is an outcome too: the lid opens to the fallback, and the event says
        "fault".
        """
        started = time.perf_counter()
        looked = self._look(frame)
        prediction = looked[-1].prediction
        decision = looked[-1].decision
        if len(looked) > 1 and decision.kind not in (
            "hazard",
            "fault",
        ):  # one look that sees a hazard is enough
            prediction = combine([r.prediction for r in looked])
            decision = decide(
                prediction, self.classifier.manifest.policy, self.classifier.manifest.taxonomy
            )
        stream, outcome = self.actuator.execute(self.rules.stream(decision))
        total_ms = 1000 * (time.perf_counter() - started)
        self.health.lid = "ok" if outcome == "moved" else outcome
        brightness, sharpness = measure(frame.pixels_hwc)
        preprocess_ms, inference_ms = (
            sum(getattr(r, name) for r in looked) for name in ("preprocess_ms", "inference_ms")
        )
        now = self.clock.now()
        self.served = frame
        event = self.event = ItemEvent(
            wall_utc_ms=now.wall_utc_ms,
            monotonic_ms=int(now.monotonic_ms),
            boot_id=now.boot_id,
            clock_synced=now.clock_synced,
            model_digest=self.classifier.digest,
            rule_book=self.rules.id,
            rule_book_version=self.rules.version,
            label=prediction.label,
            confidence=_finite(prediction.confidence),
            margin=_finite(prediction.margin),
            second_label=prediction.second_label,
            unknown_score=_finite(prediction.unknown_score),
            decision=decision.kind,
            stream=stream,
            reason=decision.reason,
            outcome=Outcome.MOVED if outcome == "moved" else Outcome.FAULT,
            lid_fault="" if outcome == "moved" else outcome.removeprefix("fault: "),
            preprocess_ms=round(preprocess_ms, 3),
            inference_ms=round(inference_ms, 3),
            total_ms=round(total_ms, 3),
            brightness=round(brightness, 2),
            sharpness=round(sharpness, 2),
            frames_used=len(looked),
            energy_mj=round(self.host_power_w * (preprocess_ms + inference_ms), 3),
        )
        self.health.items += 1
        self.health.decisions[event.decision] = self.health.decisions.get(event.decision, 0) + 1
        self._store(event)
        if (
            decision.kind == "hazard"
        ):  # stored before the alarm: a controller that is silent takes seconds
            self.health.hazards = self.health.hazards + 1
            self.health.hazard = decision.reason
            self.on_hazard()
            self.give_alarm()
            log.warning("hazard: %s %s", decision.reason, self.health.alarm_failed)
        return event

    def _store(self, event: ItemEvent) -> None:
        try:
            try:
                self.outbox.append(event)
            except StorageError as error:
                log.error("%s", error)
                self.outbox = self.without_disk(error)
                self.outbox.append(event)
        except StorageError:
            self.health.unrecorded += 1

    def _look(self, frame: Frame) -> list[Classified]:
        """Classify the item, again on further frames while it is not clear.

        A hazard's look is the last one.
        """
        looked: list[Classified] = []
        while True:
            try:
                looked.append(self.classifier.classify(frame.pixels_hwc))
            except Exception as error:  # noqa: BLE001
                self._count_fault("the classifier")
                decision = Decision(
                    DecisionKind.FAULT, "", f"the classifier failed: {error!r}"[:200]
                )
                return looked or [Classified(_NOTHING, decision, 0.0, 0.0)]
            if len(looked) >= self.max_frames_per_item or looked[-1].decision.kind not in (
                "unsure",
                "unknown",
            ):
                return looked
            try:
                following = self.camera.read()
            except CameraError:
                return looked
            if following is None:
                return looked
            frame = following

    def give_alarm(self) -> None:
        """Give the alarm for the hazard in the health, or say there why it could not be given."""
        failed = self.actuator.alarm(self.health.hazard)
        self.health.alarm_failed = (
            f"the alarm for a hazard could not be given: {failed}" if failed else ""
        )

    def _open_if_long_blind(self) -> bool:
        now_ms = self.clock.now().monotonic_ms
        if self._saw_ms is None:
            self._saw_ms = now_ms
        if now_ms - self._saw_ms < _BLIND_OPENS_MS:
            return False
        self._saw_ms = now_ms
        _, outcome = self.actuator.execute(self.rules.fallback)
        self.health.lid = "ok" if outcome == "moved" else outcome
        self.health.blind_openings += 1
        return True

    def _say_camera(self, message: str) -> None:
        if message != self.health.camera and {message, self.health.camera} != {"ok", "starting"}:
            log.warning("camera: %s", message)
        self.health.camera = message

    def _count_fault(self, where: str) -> None:
        self.health.faults += 1
        log.exception("fault in %s", where)


def _finite(value: float) -> float:
    """Return a figure as an event can hold it.

    A network that gave NaN is a fault, told by `decision`.
    """
    return round(value, 5) if math.isfinite(value) else 0.0
