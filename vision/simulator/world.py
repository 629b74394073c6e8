"""A chute in time: an item falls in, lies there until the lid clears it, the next one comes.

It stands in for the street: the bin's camera sees it and the bin's actuator clears it. The ledger
is the truth on disk. It outlives the process, as the street does: if the bin is killed while an
item lies in the chute, the item still lies there when the bin comes back.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from vision.datasets import Dataset, read_image
from vision.errors import ImageError, StorageError
from vision.frames import Pixels
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.scene import Chute, PlacedItem, expose, place_item, random_chute

log = logging.getLogger(__name__)

EMPTY_FRAMES = 4
FALL_FRAMES = 4
PATIENCE_FRAMES = 60


class Items(Protocol):
    """What is thrown in: item k, always the same for the same k."""

    def label(self, index: int) -> str:
        """Return the true label of an item."""

    def draw(
        self, index: int, chute: Chute, offset_px: tuple[int, int], rng: np.random.Generator
    ) -> Pixels:
        """Return an image of the chute with the item that far from its resting place."""


class SimulatedItems:
    """Procedural items of the given labels."""

    def __init__(self, seed: int, labels: tuple[str, ...] = tuple(CATALOGUE)) -> None:
        self._seed = seed
        self._labels = labels
        self._placed: tuple[int, PlacedItem] | None = None

    def label(self, index: int) -> str:
        """Return the true label of an item."""
        return self._labels[int(self._rng(index).integers(len(self._labels)))]

    def draw(
        self, index: int, chute: Chute, offset_px: tuple[int, int], rng: np.random.Generator
    ) -> Pixels:
        """Return an image of the chute with the item in it."""
        if self._placed is None or self._placed[0] != index:
            self._placed = (index, place_item(chute, self.label(index), self._rng(index)))
        return expose(chute, self._placed[1], rng, offset_px)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, index])


class Photographs:
    """Photographs in place of items: each slides over the chute and then fills the frame.

    It fills the frame pixel for pixel.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._samples = dataset.samples
        self._order = np.random.default_rng(seed).permutation(len(self._samples))
        self._shown: tuple[int, Pixels] | None = None

    def label(self, index: int) -> str:
        """Return the true label of an image."""
        return self._samples[int(self._order[index % len(self._order)])].label

    def draw(
        self, index: int, chute: Chute, offset_px: tuple[int, int], rng: np.random.Generator
    ) -> Pixels:
        """Return the image, shifted over the empty chute while it moves."""
        height_px, width_px = chute.floor_hwc.shape[:2]
        if self._shown is None or self._shown[0] != index:
            pixels = read_image(self._samples[int(self._order[index % len(self._order)])].path)
            if pixels.shape[:2] != (height_px, width_px):
                pixels = cv2.resize(pixels, (width_px, height_px), interpolation=cv2.INTER_AREA)
            self._shown = (index, np.asarray(pixels, dtype=np.uint8))
        image = self._shown[1]
        dx, dy = offset_px
        if not dx and not dy:
            return image
        moved = expose(chute, None, rng)
        x0 = max(dx, 0)
        y0 = max(dy, 0)
        x1 = min(width_px + dx, width_px)
        y1 = min(height_px + dy, height_px)
        if x0 < x1 and y0 < y1:
            moved[y0:y1, x0:x1] = image[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
        return moved


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the truth: what happened to one item.

    Attributes:
        index: number of the item, from 0.
        label: its true label.
        what: "dropped", "cleared" or "missed".
        stream: where a cleared item went.
    """

    index: int
    label: str
    what: str
    stream: str = ""


def read_ledger(path: Path) -> list[LedgerLine]:
    """Read the truth; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    return [
        LedgerLine(**json.loads(line))
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


class World:
    """The chute of one bin.

    Args:
        items: what is thrown in.
        count: number of items; None never ends.
        size_px: width, height of the images.
        seed: of the chute and the noise.
        ledger: file of the truth; an existing one is continued. None keeps no truth.
        dark_floor: a black floor, on which any photograph stands out.
    """

    def __init__(
        self,
        items: Items,
        count: int | None,
        size_px: tuple[int, int],
        seed: int,
        ledger: Path | None = None,
        dark_floor: bool = False,
    ) -> None:
        self._items = items
        self._count = count
        self._ledger_path = ledger
        self._rng = np.random.default_rng([seed, 1])
        self._chute = random_chute(*size_px, np.random.default_rng([seed, 2]))
        if dark_floor:
            self._chute.floor_hwc = np.full_like(self._chute.floor_hwc, 0.06)
        lines = read_ledger(ledger) if ledger else []
        self.missed = 0
        self._index = sum(line.what in ("cleared", "missed") for line in lines)
        dropped = sum(line.what == "dropped" for line in lines)
        # An item that was dropped and never cleared still lies in the chute.
        self._frame = EMPTY_FRAMES + FALL_FRAMES if dropped > self._index else 0
        if ledger:
            ledger.parent.mkdir(parents=True, exist_ok=True)
            data = ledger.read_bytes() if ledger.is_file() else b""
            if data and not data.endswith(b"\n"):
                ledger.write_text("".join(f"{json.dumps(_plain(line))}\n" for line in lines))

    @property
    def ended(self) -> bool:
        """Whether the last item is gone."""
        return self._count is not None and self._index >= self._count

    def view(self) -> Pixels | None:
        """Return the next image, uint8 BGR, or None when the last item is gone."""
        if self.ended:
            return None
        phase = self._frame
        self._frame += 1
        if phase < EMPTY_FRAMES:
            return expose(self._chute, None, self._rng)
        if phase == EMPTY_FRAMES:
            self._write("dropped")
        if phase >= EMPTY_FRAMES + FALL_FRAMES + PATIENCE_FRAMES:
            self._next("missed")
            return expose(self._chute, None, self._rng)
        height_px = self._chute.floor_hwc.shape[0]
        left_to_fall = max(0, EMPTY_FRAMES + FALL_FRAMES - 1 - phase)
        offset = (0, -int(height_px * 0.8 * left_to_fall / FALL_FRAMES))
        try:
            return self._items.draw(self._index, self._chute, offset, self._rng)
        except ImageError as error:
            log.warning("%s; shown as an empty chute", error)
            self._next("missed")
            return expose(self._chute, None, self._rng)

    def clear(self, stream: str) -> None:
        """Open the lid: whatever lies in the chute is gone; an empty chute stays as it is."""
        if self._frame > EMPTY_FRAMES:
            self._next("cleared", stream)

    def _next(self, what: str, stream: str = "") -> None:
        self._write(what, stream)
        self.missed += what == "missed"
        self._index += 1
        self._frame = 0

    def _write(self, what: str, stream: str = "") -> None:
        if self._ledger_path is None:
            return
        line = LedgerLine(self._index, self._items.label(self._index), what, stream)
        try:
            with self._ledger_path.open("a") as file:
                file.write(json.dumps(_plain(line)) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self._ledger_path}: the ledger cannot be written ({error.strerror})"
            ) from error


def _plain(line: LedgerLine) -> dict[str, object]:
    return {"index": line.index, "label": line.label, "what": line.what, "stream": line.stream}
