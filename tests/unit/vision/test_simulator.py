"""The procedural bin camera: deterministic, at camera speed, its truth outlives the process."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from vision.errors import StorageError
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.dataset import simulator_dataset
from vision.simulator.scene import expose, place_item, random_chute, render
from vision.simulator.world import (
    EMPTY_FRAMES,
    FALL_FRAMES,
    PATIENCE_FRAMES,
    SimulatedItems,
    World,
    read_ledger,
)
from vision.taxonomy import MATERIALS_1

SIZE = (160, 120)


def test_there_are_items_of_every_label() -> None:
    assert set(CATALOGUE) == set(MATERIALS_1.labels)


@pytest.mark.parametrize("label", CATALOGUE)
def test_images_are_equal_for_equal_seeds_and_differ_otherwise(label: str) -> None:
    a = render(label, *SIZE, 5)
    b = render(label, *SIZE, 5)
    c = render(label, *SIZE, 6)
    assert a.shape == (120, 160, 3)
    assert a.dtype == np.uint8
    assert (a == b).all()
    assert (a != c).mean() > 0.5


@pytest.mark.parametrize("label", CATALOGUE)
def test_every_item_is_to_be_seen(label: str) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        chute = random_chute(*SIZE, rng)
        chute.noise = 0.0
        empty, full = (
            expose(chute, item, np.random.default_rng(0))
            for item in (None, place_item(chute, label, rng))
        )
        changed = (np.abs(full.astype(int) - empty).max(axis=2) > 12).mean()
        assert changed > 0.003, f"{label}, seed {seed}: {changed:.4f} of the image changed"


def test_glass_lets_the_floor_through_and_cardboard_does_not() -> None:
    shares = {}
    for label in ("glass", "cardboard"):
        rng = np.random.default_rng(3)
        chute = random_chute(*SIZE, rng)
        chute.noise = 0.0
        item = place_item(chute, label, rng)
        shares[label] = float(
            (item.item.clear_hw * item.item.alpha_hw).sum() / item.item.alpha_hw.sum()
        )
    assert shares["glass"] > 0.2
    assert shares["cardboard"] == 0


def test_frames_come_at_camera_speed() -> None:
    rng = np.random.default_rng(0)
    chute = random_chute(640, 480, rng)
    item = place_item(chute, "glass", rng)
    times = []
    for _ in range(15):
        started = time.thread_time()
        expose(chute, item, rng)
        times.append(time.thread_time() - started)
    assert np.median(times) < 1 / 15  # 30 a second on a free core; this bound holds on a busy one


def test_items_lie_until_the_lid_clears_them_and_the_ledger_knows(tmp_path: Path) -> None:
    world = World(SimulatedItems(1), 2, SIZE, 1, tmp_path / "truth.jsonl")
    for _ in range(EMPTY_FRAMES + FALL_FRAMES + 5):
        assert world.view() is not None
    world.clear("glass")
    assert [line.what for line in read_ledger(tmp_path / "truth.jsonl")] == ["dropped", "cleared"]
    for _ in range(EMPTY_FRAMES):
        world.view()
    world.clear("glass")  # nothing lies there yet
    assert len(read_ledger(tmp_path / "truth.jsonl")) == 2
    for _ in range(FALL_FRAMES + PATIENCE_FRAMES + 1):
        world.view()
    assert [line.what for line in read_ledger(tmp_path / "truth.jsonl")] == [
        "dropped",
        "cleared",
        "dropped",
        "missed",
    ]
    assert world.view() is None


def test_an_item_in_the_chute_is_still_there_after_a_kill(tmp_path: Path) -> None:
    ledger = tmp_path / "truth.jsonl"
    first = World(SimulatedItems(1), 3, SIZE, 1, ledger)
    for _ in range(EMPTY_FRAMES + FALL_FRAMES + 2):
        shown = first.view()
    with ledger.open("a") as file:
        file.write('{"index": 0, "lab')  # the kill came in the middle of a line
    again = World(SimulatedItems(1), 3, SIZE, 1, ledger)
    seen = again.view()
    assert shown is not None
    assert seen is not None
    assert np.abs(shown.astype(int) - seen).mean() < 8  # the same scene but for the noise
    again.clear("paper")
    assert [(line.index, line.what) for line in read_ledger(ledger)] == [
        (0, "dropped"),
        (0, "cleared"),
    ]
    assert all(json.loads(line) for line in ledger.read_text().splitlines())


def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    world = World(SimulatedItems(1), 1, SIZE, 1, tmp_path / "gone" / "truth.jsonl")
    (tmp_path / "gone").rmdir()
    for _ in range(EMPTY_FRAMES):
        world.view()
    with pytest.raises(StorageError, match=r"truth\.jsonl"):
        world.view()


def test_simulator_set_is_rendered_once_and_read_again(tmp_path: Path) -> None:
    first = simulator_dataset(tmp_path, 40, 3, ("glass", "paper"))
    assert first.counts() == {"glass": 20, "paper": 20}
    assert len(first.select("val").samples) == 8
    stamp = first.samples[0].path.stat().st_mtime_ns
    again = simulator_dataset(tmp_path, 40, 3, ("glass", "paper"))
    assert again == first
    assert again.samples[0].path.stat().st_mtime_ns == stamp
