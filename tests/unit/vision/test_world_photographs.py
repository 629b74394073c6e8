"""Photographs as items."""

from pathlib import Path

import numpy as np

from vision.datasets import open_dataset, read_image
from vision.simulator.world import EMPTY_FRAMES, FALL_FRAMES, Photographs, World


def test_a_photograph_at_rest_is_shown_pixel_for_pixel(image_folder: Path) -> None:
    dataset = open_dataset(image_folder)
    items = Photographs(dataset, 0)
    world = World(items, 24, (64, 48), 0, dark_floor=True)
    originals = [read_image(s.path) for s in dataset.samples]
    shown = 0
    for index in range(24):
        frames = [world.view() for _ in range(EMPTY_FRAMES + FALL_FRAMES + 1)]
        world.clear("any")
        matches = [i for i, image in enumerate(originals) if np.array_equal(image, frames[-1])]
        assert [dataset.samples[i].label for i in matches] == [items.label(index)]
        shown += 1
    assert shown == 24
    assert world.view() is None
