"""The whole bin on a simulated chute, with faults made on purpose."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from configs import load
from edge_runtime.actuate import SimulatedActuator
from edge_runtime.app import run
from edge_runtime.capture import WorldCamera, open_camera
from edge_runtime.classify import Classifier
from edge_runtime.clock import SystemClock
from edge_runtime.config import CameraConfig, EdgeConfig, TriggerConfig
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from vision.errors import CameraError, StorageError
from vision.events import ItemEvent
from vision.frames import Camera, Frame
from vision.simulator.world import SimulatedItems, World, read_ledger


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


def test_pictures_of_a_folder_are_items(tmp_path: Path, picture_folder: Path) -> None:
    health = run(_config(tmp_path, "camera.kind=folder", f"camera.source={picture_folder}", "camera.items=24"))
    assert health.items == 24


class _Parts:
    """A pipeline on a simulated chute whose parts a test may replace."""

    def __init__(self, tmp_path: Path, shipped: Path, camera: Callable[[World], Camera] | None = None) -> None:
        self.world = World(SimulatedItems(1), 4, (160, 120), 1, tmp_path / "truth.jsonl")
        self.rules, self.health, self.clock = load_rules(EdgeConfig().rules), Health("b"), SystemClock()
        self.classifier, self.outbox = Classifier(shipped), Outbox(tmp_path / "o.sqlite", "b")
        self.pipeline = Pipeline(
            camera(self.world) if camera else WorldCamera(self.world, 0, self.clock),
            Trigger(TriggerConfig()),
            self.classifier,
            self.rules,
            SimulatedActuator(tuple(self.rules.streams), self.world),
            self.outbox,
            self.clock,
            self.health,
            lambda: None,
        )


def test_a_fault_in_the_classifier_opens_the_lid_to_residual_and_the_bin_goes_on(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, shipped)
    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    healthy, calls = parts.classifier.classify, iter([True, False, False, False])
    monkeypatch.setattr(parts.classifier, "classify", lambda pixels: 1 / 0 if next(calls) else healthy(pixels))
    parts.pipeline.run(threading.Event())
    cleared = [line.stream for line in read_ledger(tmp_path / "truth.jsonl") if line.what == "cleared"]
    assert cleared[0] == parts.rules.fallback
    assert (len(cleared), parts.health.faults, parts.health.items, parts.outbox.depth()) == (4, 1, 3, 3)


def test_an_outbox_that_refuses_is_counted_and_every_person_is_still_served(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _Parts(tmp_path, shipped)

    def refuse(event: ItemEvent) -> int:
        raise StorageError("disk full")

    monkeypatch.setattr(parts.outbox, "append", refuse)
    parts.pipeline.run(threading.Event())
    assert [line.what for line in read_ledger(tmp_path / "truth.jsonl")].count("cleared") == 4
    assert parts.health.unrecorded == 4


def test_a_camera_that_fails_and_recovers_costs_no_item(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flaky:
        def __init__(self, world: World) -> None:
            self.inner, self.reads = WorldCamera(world, 0, SystemClock()), 0

        def read(self) -> Frame | None:
            self.reads += 1
            if self.reads % 3 == 0:
                raise CameraError("camera 0: no frame for 5 s")
            return self.inner.read()

        def close(self) -> None:
            self.inner.close()

    monkeypatch.setattr("edge_runtime.pipeline._RETRY_S", 0.0)
    parts = _Parts(tmp_path, shipped, Flaky)
    parts.pipeline.run(threading.Event())
    assert (parts.health.items, parts.outbox.depth(), parts.health.faults) == (4, 4, 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "device", "source": "97"}, "camera 97: cannot be opened"),
        ({"kind": "file", "source": "none.mp4"}, r"camera none\.mp4: cannot be opened"),
        ({"kind": "folder", "source": "none"}, "no such folder"),
    ],
)
def test_cameras_that_are_not_there_say_what_to_check(tmp_path: Path, change: dict[str, str], complaint: str) -> None:
    with pytest.raises(CameraError, match=complaint):
        open_camera(CameraConfig.model_validate(change), tmp_path, SystemClock())


def test_a_stream_without_a_compartment_is_an_outcome_and_no_exception() -> None:
    assert SimulatedActuator(("residual",), None).execute("glass").startswith("fault: ")
