"""A camera over a simulated chute: procedural items, or photographs of a folder."""

from __future__ import annotations

import time
from pathlib import Path

from edge_runtime.clock import Clock
from vision.datasets import Dataset, Sample, image_paths, open_dataset
from vision.errors import CameraError, DatasetError
from vision.frames import Frame
from vision.simulator.world import World


class WorldCamera:
    """Looks at a simulated world, at a steady pace."""

    def __init__(self, world: World, fps: float, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._sequence = 0
        self._period_ms = 1000 / fps if fps else 0.0
        self._next_ms = 0.0

    def read(self) -> Frame | None:
        """Return the next frame, or None when the world has ended."""
        now_ms = self._clock.now().monotonic_ms
        if self._period_ms:
            self._next_ms = max(self._next_ms + self._period_ms, now_ms)
            time.sleep((self._next_ms - now_ms) / 1000)
        pixels = self._world.view()
        if pixels is None:
            return None
        self._sequence += 1
        return Frame(pixels, self._sequence, self._clock.now().monotonic_ms, "world")

    @property
    def hung(self) -> bool:
        """Never."""
        return False

    def restart(self) -> None:
        """Do nothing: a world cannot freeze."""

    def close(self) -> None:
        """Nothing to release."""


def folder_images(root: Path, split: str) -> Dataset:
    """Return the images of a folder as items: labelled if it is a data set, else as they are.

    Raises:
        CameraError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise CameraError(f"camera.source: no such folder: {root}")
    try:
        dataset = open_dataset(root)
    except DatasetError:
        dataset = None  # images without labels are items as well
    if dataset:
        return dataset.select(split) if split else dataset
    samples = tuple(Sample(p, p.name, "", "", p.name) for p in image_paths(root))
    if not samples:
        raise CameraError(f"camera.source: no image in {root}")
    return Dataset(root.name, samples)
