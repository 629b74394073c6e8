"""One straight line from frame to event. The person at the bin comes first: nothing slow stands before the lid."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import cv2

from edge_runtime.actuate import Actuator
from edge_runtime.classify import Classified, Classifier
from edge_runtime.clock import Clock
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.rules import RuleBook
from edge_runtime.trigger import Trigger
from vision.decision import Decision, Prediction
from vision.errors import BinsightError, CameraError, StorageError
from vision.events import ItemEvent
from vision.frames import Camera, Frame, Pixels

log = logging.getLogger(__name__)

_RETRY_S = 0.5


class Pipeline:
    """Camera, trigger, classifier, rule book, actuator and outbox of one bin, each given from outside.

    Args:
        every_frame: called after each frame; for health and the saved reference.
    """

    def __init__(
        self,
        camera: Camera,
        trigger: Trigger,
        classifier: Classifier,
        rules: RuleBook,
        actuator: Actuator,
        outbox: Outbox,
        clock: Clock,
        health: Health,
        every_frame: Callable[[], None],
    ) -> None:
        self._camera, self._trigger, self._classifier, self._rules = camera, trigger, classifier, rules
        self._actuator, self._outbox, self._clock, self._health = actuator, outbox, clock, health
        self._every_frame = every_frame

    def run(self, stop: threading.Event) -> None:
        """Serve until the camera ends or `stop` is set; a fault is counted and the bin goes on."""
        while not stop.is_set():
            try:
                frame = self._camera.read()
                if frame is None:
                    return
                self._health.camera, self._health.frames = "ok", self._health.frames + 1
                if self._trigger.step(frame):
                    self.serve(frame)
            except CameraError as error:
                if self._health.camera != str(error):
                    log.warning("%s", error)
                self._health.camera = str(error)
                stop.wait(_RETRY_S)
            except Exception:  # noqa: BLE001  the bin's service loop: the next person must be served
                self._count_fault("the bin's loop")
                stop.wait(_RETRY_S)
            try:
                self._every_frame()
            except (BinsightError, OSError):
                self._count_fault("housekeeping")

    def serve(self, frame: Frame) -> ItemEvent:
        """Classify one item, move the lid, store the event; return it, stored or not.

        A classifier that fails is an outcome too: the lid opens to the fallback, and the event says "fault".
        """
        started = time.perf_counter()
        try:
            result = self._classifier.classify(frame.pixels_hwc)
        except Exception as error:  # noqa: BLE001  a person stands before the bin, whatever broke
            self._count_fault("the classifier")
            nothing = Prediction(label="", confidence=0.0, second_label="", margin=0.0, unknown_score=0.0)
            result = Classified(nothing, Decision("fault", "", f"the classifier failed: {error!r}"[:200]), 0.0, 0.0)
        stream = self._rules.stream(result.decision)
        outcome = self._actuator.execute(stream)
        total_ms = 1000 * (time.perf_counter() - started)
        brightness, sharpness = _quality(frame.pixels_hwc)
        now, prediction = self._clock.now(), result.prediction
        event = ItemEvent(
            wall_utc_ms=now.wall_utc_ms,
            monotonic_ms=int(now.monotonic_ms),
            boot_id=now.boot_id,
            clock_synced=now.clock_synced,
            model_digest=self._classifier.digest,
            rule_book=self._rules.id,
            rule_book_version=self._rules.version,
            label=prediction.label,
            confidence=_finite(prediction.confidence),
            margin=_finite(prediction.margin),
            second_label=prediction.second_label,
            unknown_score=_finite(prediction.unknown_score),
            decision=result.decision.kind,
            stream=stream,
            reason=result.decision.reason,
            outcome=outcome,
            preprocess_ms=round(result.preprocess_ms, 3),
            inference_ms=round(result.inference_ms, 3),
            total_ms=round(total_ms, 3),
            brightness=round(brightness, 2),
            sharpness=round(sharpness, 2),
        )
        self._health.items += 1
        self._health.decisions[event.decision] = self._health.decisions.get(event.decision, 0) + 1
        try:
            self._outbox.append(event)
        except StorageError as error:
            self._health.unrecorded += 1
            log.error("%s", error)
        return event

    def _count_fault(self, where: str) -> None:
        self._health.faults += 1
        log.exception("fault in %s", where)


def _finite(value: float) -> float:
    """Return a figure as an event can hold it: a network that gave NaN is a fault, told by `decision`."""
    return round(value, 5) if math.isfinite(value) else 0.0


def _quality(pixels_hwc: Pixels) -> tuple[float, float]:
    grey = cv2.cvtColor(cv2.resize(pixels_hwc, (160, 120), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    return float(grey.mean()), float(cv2.Laplacian(grey, cv2.CV_32F).var())
