"""A recorded recording in, events out, compared with the reference that was once accepted.

What a change of trigger, model or rules does to real sequences is seen before a bin sees it.
`binsight edge run --record RECORDING` makes the recording; the reference lies beside it, as
RECORDING.events.jsonl.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.actuate import Actuator, SimulatedLid
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.capture import VideoFile
from edge_runtime.choose import choose
from edge_runtime.clock import Instant
from edge_runtime.config import EdgeConfig
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from vision.errors import ConfigError
from vision.files import write_atomically

# Confidence may move so far between processors before it is another result.
TOLERANCE = 0.1
_FPS = 10.0


@dataclass(slots=True)
class _RecordingClock:
    """Time as the recording tells it."""

    camera: VideoFile | None = None

    def now(self) -> Instant:
        """Return the time of the image last read."""
        return Instant(
            0, 1000 * (self.camera.sequence if self.camera else 0) / _FPS, "recording", False
        )


def replay(recording: Path, config: EdgeConfig) -> list[dict[str, Any]]:
    """Run a bin on a recording.

    Args:
        recording: from `--record`.
        config: bundle, rules, trigger and looks are used.

    Returns:
        For each item: `frame` at which it was served, label, decision, stream, confidence, looks.

    Raises:
        BinsightError: the recording cannot be read, or the bin not be built.
    """
    rules = load_rules(config.rules)
    clock = _RecordingClock()
    camera = clock.camera = VideoFile(str(recording), clock)
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Outbox(Path(scratch) / "outbox.sqlite", "replay") as outbox,
    ):
        pipeline = Pipeline(
            camera,
            CameraMonitor(config.camera.stale_after_s),
            Trigger(config.trigger),
            choose(config.bundle, config.threads).classifier,
            rules,
            Actuator(SimulatedLid(tuple(rules.streams), None), rules.fallback),
            outbox,
            clock,
            Health("replay"),
            config.max_frames_per_item,
        )
        while pipeline.step():
            event = pipeline.event
            pipeline.event = None
            if event:
                rows.append(
                    {
                        "frame": camera.sequence - event.frames_used + 1,
                        "label": event.label,
                        "decision": event.decision,
                        "stream": event.stream,
                        "confidence": round(event.confidence, 2),
                        "frames_used": event.frames_used,
                    }
                )
    camera.close()
    return rows


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
    told = (
        [f"{len(rows)} items; the reference has {len(wanted)}"] if len(rows) != len(wanted) else []
    )
    for number, (row, reference) in enumerate(zip(rows, wanted, strict=False), 1):
        for key in ("frame", "label", "decision", "stream"):
            if row[key] != reference[key]:
                told.append(
                    f"item {number}: {key} is {row[key]!r}; the reference has {reference[key]!r}"
                )
        if abs(row["confidence"] - reference["confidence"]) > TOLERANCE:
            told.append(
                f"item {number}: confidence is {row['confidence']}; the reference has "
                f"{reference['confidence']}"
            )
    return told
