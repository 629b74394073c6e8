"""From a frame to an event. The person at the bin comes first: nothing slow stands before the lid.

It stores nothing, writes no health and calls nobody back: the caller takes the event.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

from edge_runtime.bin import Parts, Timing
from edge_runtime.camera_monitor import measure
from edge_runtime.classify import Classified
from edge_runtime.lids.actuator import Move
from edge_runtime.trigger import Mask, State
from vision.decision import Decision, DecisionKind, Prediction, combine, decide
from vision.errors import BundleError
from vision.events import ItemEvent, Outcome
from vision.frames import Frame

log = logging.getLogger(__name__)

_NOTHING = Prediction(
    label="", confidence=0.0, second_label="", margin=0.0, unknown_score=0.0, probabilities={}
)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What a bin has seen and done last, for people to look at.

    Attributes:
        frame: the last frame; None before the first.
        trigger: where the trigger stands.
        mask: what differs from the empty chute, 0 or 1, size of the trigger's image.
        event: the last event; None before the first.
        item: the frame that it was made of.
        stream_title: what people call the stream of that event.
    """

    frame: Frame | None
    trigger: State
    mask: Mask
    event: ItemEvent | None
    item: Frame | None
    stream_title: str


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """What the health file says of the pipeline; see `Health`."""

    camera: str
    chute: str
    frames: int
    items: int
    faults: int
    decisions: dict[str, int]
    blind_openings: int
    lid: str


@dataclass(slots=True, eq=False)
class _Item:
    """An item that lies in the chute and is being classified."""

    frame: Frame
    started_s: float
    results: list[Classified] = field(default_factory=list)


class Pipeline:
    """Serves one item after the other.

    Args:
        parts: of the bin.
        timing: how often a blind bin opens.

    Attributes:
        parts: between two items they may be replaced by new ones, whole.
        snapshot: for people; replaced whole after each frame.
    """

    def __init__(self, parts: Parts, timing: Timing = Timing()) -> None:
        self.parts = parts
        self._blind_opens_ms = timing.blind_opens_ms
        self._item: _Item | None = None
        self._served: Frame | None = None
        self._saw_ms: float | None = None
        self._camera = "starting"
        self._chute = "ok"
        self._lid = "ok"
        self._frames = 0
        self._items = 0
        self._faults = 0
        self._blind_openings = 0
        self._decisions: dict[DecisionKind, int] = {}
        self.snapshot = Snapshot(None, parts.trigger.state, parts.trigger.mask, None, None, "")

    @property
    def busy(self) -> bool:
        """Whether an item waits for a further frame; a person stands there."""
        return self._item is not None

    def step(self, frame: Frame) -> ItemEvent | None:
        """Take in a frame; return the event of the item that was served by it, if any.

        An item is served by the frame that shows it at rest, or by a later one if it is not clear.
        A classifier that fails is served too: the lid opens to the fallback, the event says
        "fault".
        """
        self._frames += 1
        event = self._continue(self._item, frame) if self._item else self._watch(frame)
        self._show(frame, event)
        return event

    def finish(self) -> ItemEvent | None:
        """Serve an item that waits for a further frame by what is known of it; return its event."""
        if self._item is None:
            return None
        event = self._serve(self._item)
        self._show(self.snapshot.frame, event)
        return event

    def without_frame(self, problem: str) -> ItemEvent | None:
        """Go on where there is no frame; return the event of an item that waited for one.

        Args:
            problem: what the camera says.
        """
        self._note_camera(problem)
        event = self.finish()
        self.open_if_long_blind()
        return event

    def open_if_long_blind(self) -> bool:
        """Empty the chute to the fallback if nothing was seen at rest for long; return whether."""
        now_ms = self.parts.clock.now().monotonic_ms
        if self._saw_ms is None:
            self._saw_ms = now_ms
        if now_ms - self._saw_ms < self._blind_opens_ms:
            return False
        self._saw_ms = now_ms
        self._note_lid(self._open(self.parts.rules.fallback))
        self._blind_openings += 1
        return True

    def close(self) -> None:
        """Leave the lid in its safe state, as the rule book of now has it, and let go of it."""
        self.parts.actuator.close(self.parts.rules.fallback)

    def status(self) -> PipelineStatus:
        """Return what the health file says of the pipeline."""
        return PipelineStatus(
            camera=self._camera,
            chute=self._chute,
            frames=self._frames,
            items=self._items,
            faults=self._faults,
            decisions={kind.value: count for kind, count in self._decisions.items()},
            blind_openings=self._blind_openings,
            lid=self._lid,
        )

    def _watch(self, frame: Frame) -> ItemEvent | None:
        """Look for an item at rest."""
        parts = self.parts
        status = parts.monitor.check(frame, parts.trigger.state is State.EMPTY)
        self._note_camera(status.fault or "ok")
        if status.restart:
            parts.camera.restart()
        if status.blind:
            self.open_if_long_blind()
            return None
        rests = parts.trigger.step(frame)
        if rests or parts.trigger.state is State.EMPTY:
            self._saw_ms = frame.monotonic_ms
            self._chute = "ok"
        elif self.open_if_long_blind():
            self._chute = "nothing rests before the camera: something moves there, or it does"
            parts.trigger.relearn()
        if not rests:
            return None
        self._item = _Item(frame, time.perf_counter())
        return self._continue(self._item, frame)

    def _continue(self, item: _Item, frame: Frame) -> ItemEvent | None:
        """Classify the item on this frame; serve it if it is clear, or was seen often enough."""
        try:
            result = self.parts.classifier.classify(frame.pixels_hwc)
        except BundleError as error:
            self._faults += 1
            log.exception("the classifier")
            if not item.results:
                decision = Decision(DecisionKind.FAULT, "", str(error)[:200])
                item.results.append(Classified(_NOTHING, decision, 0.0, 0.0))
            return self._serve(item)
        item.results.append(result)
        clear = result.decision.kind not in (DecisionKind.UNSURE, DecisionKind.UNKNOWN)
        if clear or len(item.results) >= self.parts.max_frames_per_item:
            return self._serve(item)
        return None

    def _serve(self, item: _Item) -> ItemEvent:
        """Decide on the item, move the lid, and return the event."""
        self._item = None
        self._served = item.frame
        manifest = self.parts.classifier.manifest
        prediction = item.results[-1].prediction
        decision = item.results[-1].decision
        final = decision.kind in (DecisionKind.HAZARD, DecisionKind.FAULT)
        if len(item.results) > 1 and not final:  # one frame that shows a hazard is enough
            prediction = combine([result.prediction for result in item.results])
            decision = decide(prediction, manifest.policy, manifest.taxonomy)
        move = self._open(self.parts.rules.stream(decision))
        total_ms = 1000 * (time.perf_counter() - item.started_s)
        self._note_lid(move)
        self._items += 1
        self._decisions[decision.kind] = self._decisions.get(decision.kind, 0) + 1
        return self._event(item, prediction, decision, move, total_ms)

    def _event(
        self, item: _Item, prediction: Prediction, decision: Decision, move: Move, total_ms: float
    ) -> ItemEvent:
        parts = self.parts
        now = parts.clock.now()
        brightness, sharpness = measure(item.frame.pixels_hwc)
        preprocess_ms = sum(result.preprocess_ms for result in item.results)
        inference_ms = sum(result.inference_ms for result in item.results)
        return ItemEvent(
            wall_utc_ms=now.wall_utc_ms,
            monotonic_ms=int(now.monotonic_ms),
            boot_id=now.boot_id,
            clock_synced=now.clock_synced,
            model_digest=parts.classifier.digest,
            rule_book=parts.rules.id,
            rule_book_version=parts.rules.version,
            label=decision.label or prediction.label,
            confidence=_finite(prediction.confidence),
            margin=_finite(prediction.margin),
            second_label=prediction.second_label,
            unknown_score=_finite(prediction.unknown_score),
            decision=decision.kind.value,
            stream=move.stream,
            reason=decision.reason,
            outcome=move.outcome.value,
            preprocess_ms=round(preprocess_ms, 3),
            inference_ms=round(inference_ms, 3),
            total_ms=round(total_ms, 3),
            brightness=round(brightness, 2),
            sharpness=round(sharpness, 2),
            frames_used=len(item.results),
            energy_mj=round(parts.host_power_w * (preprocess_ms + inference_ms), 3),
            lid_fault=move.fault,
        )

    def _open(self, stream: str) -> Move:
        return self.parts.actuator.execute(stream, self.parts.rules.fallback)

    def _show(self, frame: Frame | None, event: ItemEvent | None) -> None:
        trigger = self.parts.trigger
        last = self.snapshot
        if event is None:
            self.snapshot = Snapshot(
                frame, trigger.state, trigger.mask, last.event, last.item, last.stream_title
            )
            return
        title = self.parts.rules.streams.get(event.stream, event.stream)
        self.snapshot = Snapshot(frame, trigger.state, trigger.mask, event, self._served, title)

    def _note_camera(self, state: str) -> None:
        if state != self._camera and {state, self._camera} != {"ok", "starting"}:
            log.warning("camera: %s", state)
        self._camera = state

    def _note_lid(self, move: Move) -> None:
        self._lid = "ok" if move.outcome is Outcome.MOVED else f"fault: {move.fault}"


def _finite(value: float) -> float:
    """Return a figure as an event can hold it.

    A network that gave NaN is a fault; the decision says so.
    """
    return round(value, 5) if math.isfinite(value) else 0.0
