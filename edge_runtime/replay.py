"""A recording in, events out, compared with the reference that was once accepted.

What a change of trigger, model or rules does to real sequences is seen before a bin sees it.
`binsight edge run --record RECORDING` makes the recording; the reference lies beside it, as
RECORDING.events.jsonl.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bin import Parts
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.cameras.video_file import VideoFile
from edge_runtime.choose import choose
from edge_runtime.clock import Instant
from edge_runtime.config import EdgeConfig
from edge_runtime.lids.actuator import Actuator
from edge_runtime.lids.simulated import SimulatedLid
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from vision.decision import DecisionKind
from vision.errors import ConfigError
from vision.events import ItemEvent
from vision.files import write_atomically

# Confidence may move so far between processors before it is another result.
TOLERANCE = 0.1
_FPS = 10.0


@dataclass(slots=True)
class _RecordingClock:
    """Time as the recording tells it."""

    camera: VideoFile | None = None

    def now(self) -> Instant:
        """Return the time of the frame last read."""
        sequence = self.camera.sequence if self.camera else 0
        return Instant(0, 1000 * sequence / _FPS, "recording", False)


def replay(recording: Path, config: EdgeConfig) -> list[dict[str, Any]]:
    """Run a bin on a recording.

    Args:
        recording: from `--record`.
        config: bundle, rules, trigger and max_frames_per_item are used.

    Returns:
        For each item: `frame` at which it came to rest, label, decision, stream, confidence,
        frames_used.

    Raises:
        BinsightError: the recording cannot be read, or the bin not be built.
    """
    rules = load_rules(config.rules)
    clock = _RecordingClock()
    camera = clock.camera = VideoFile(str(recording), clock)
    parts = Parts(
        camera=camera,
        monitor=CameraMonitor(config.camera.stale_after_s),
        trigger=Trigger(config.trigger),
        classifier=choose(config.bundle, config.threads).classifier,
        rules=rules,
        actuator=Actuator(SimulatedLid(tuple(rules.streams), None)),
        clock=clock,
        max_frames_per_item=config.max_frames_per_item,
    )
    pipeline = Pipeline(parts)
    rows = []
    while (frame := camera.read()) is not None:
        if event := pipeline.step(frame):
            rows.append(_row(event, camera.sequence))
    if event := pipeline.finish():
        rows.append(_row(event, camera.sequence))
    camera.close()
    return rows


def _row(event: ItemEvent, frame: int) -> dict[str, Any]:
    return {
        "frame": frame - event.frames_used + 1,
        "label": event.label,
        "decision": event.decision,
        "stream": event.stream,
        "confidence": round(event.confidence, 2),
        "frames_used": event.frames_used,
    }


def reference_of(recording: Path) -> Path:
    """Return where a recording's reference lies."""
    return recording.with_name(recording.name + ".events.jsonl")


def accept(recording: Path, rows: list[dict[str, Any]]) -> Path:
    """Make these events the recording's reference; return its path."""
    path = reference_of(recording)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def differences(recording: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Return in words where events differ from the recording's reference; empty if they do not.

    Raises:
        ConfigError: the recording has no reference yet.
    """
    path = reference_of(recording)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no reference yet; look at the events, and accept them with --accept"
        )
    wanted = [json.loads(line) for line in path.read_text().splitlines()]
    found = (
        [f"{len(rows)} items; the reference has {len(wanted)}"] if len(rows) != len(wanted) else []
    )
    for number, (row, reference) in enumerate(zip(rows, wanted, strict=False), 1):
        # An unknown item has no label that holds: which of near-equal probabilities is the greatest
        # differs between processors.
        both_unknown = {row["decision"], reference["decision"]} == {DecisionKind.UNKNOWN}
        for key in ("frame", "decision", "stream", *(() if both_unknown else ("label",))):
            if row[key] != reference[key]:
                found.append(
                    f"item {number}: {key} is {row[key]!r}; the reference has {reference[key]!r}"
                )
        if abs(row["confidence"] - reference["confidence"]) > TOLERANCE:
            found.append(
                f"item {number}: confidence is {row['confidence']}; the reference has "
                f"{reference['confidence']}"
            )
    return found
