"""Items that the trigger counts exactly once, and its false counts in empty time.

Simulated items, and photographs laid on the chute's floor, on a bad day.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_runtime.config import TriggerConfig
from edge_runtime.trigger import Trigger
from training.background import item_mask
from vision.datasets import open_dataset, read_image
from vision.frames import Frame, Pixels
from vision.simulator.scene import Chute, expose
from vision.simulator.street import INCIDENTS, Street
from vision.simulator.world import Items, SimulatedItems

SHARED = Path(os.environ.get("BINSIGHT_SHARED", Path(__file__).parents[2] / "shared"))
# The trigger was made with the first 80 chutes in view; BINSIGHT_FIRST_CHUTE=80 measures it on
# others.
FIRST = int(os.environ.get("BINSIGHT_FIRST_CHUTE", "0"))
CHUTES = 80
ITEMS = 50
SIZE_PX = (320, 240)
FPS = 10


class SwappedItems:
    """Items of photographs, moved over the chute's floor in place of their background."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        samples = open_dataset(SHARED / "data" / "trashnet").select("val").samples
        self._items: list[tuple[str, Pixels, np.ndarray[Any, Any]]] = []
        for i in rng.permutation(len(samples))[:ITEMS]:
            pixels = cv2.resize(
                read_image(samples[int(i)].path), SIZE_PX, interpolation=cv2.INTER_AREA
            )
            mask = item_mask(pixels)
            if mask is not None:
                alpha = cv2.GaussianBlur(cv2.resize(mask, SIZE_PX).astype(np.float32), (0, 0), 1.0)
                self._items.append((samples[int(i)].label, np.asarray(pixels, np.uint8), alpha))

    def label(self, index: int) -> str:
        """Return the true label of an item."""
        return self._items[index % len(self._items)][0]

    def draw(
        self, index: int, chute: Chute, offset_px: tuple[int, int], rng: np.random.Generator
    ) -> Pixels:
        """Return an image of the chute with the item that far from its resting place."""
        _, pixels, alpha = self._items[index % len(self._items)]
        move = np.array([[1, 0, offset_px[0]], [0, 1, offset_px[1]]], np.float32)
        cover = cv2.warpAffine(alpha, move, SIZE_PX)[..., None]
        moved = cv2.warpAffine(pixels, move, SIZE_PX).astype(np.float32) * chute.exposure
        noise = rng.normal(0, chute.noise, moved.shape)
        laid = expose(chute, None, rng) * (1 - cover) + (moved + noise) * cover
        return np.asarray(np.clip(laid, 0, 255), np.uint8)


def play(street: Street, trigger: Trigger) -> float:
    """Play a street to its end and return the trigger's milliseconds a frame."""
    spent = 0.0
    sequence = 0
    while (pixels := street.view()) is not None:
        sequence += 1
        started = time.perf_counter()
        fired = trigger.step(Frame(pixels, sequence, 0.0))
        spent += time.perf_counter() - started
        if fired:
            street.clear()
    return 1000 * spent / sequence


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of item."""
    cv2.setNumThreads(1)
    kinds: dict[str, Any] = {"simulated": SimulatedItems, "photographs": SwappedItems}
    for kind, make in kinds.items():
        counted: Counter[int] = Counter()
        false: Counter[str] = Counter()
        frames = 0
        times = []
        for seed in range(FIRST, FIRST + CHUTES):
            items: Items = make(seed)
            street = Street(items, ITEMS, SIZE_PX, seed, INCIDENTS)
            times.append(play(street, Trigger(TriggerConfig())))
            counted.update(street.counted)
            false.update(street.false)
            frames += street.empty_frames
        total = CHUTES * ITEMS
        yield {
            "items": kind,
            "first_chute": FIRST,
            "thrown": total,
            "counted_once": round(counted[1] / total, 4),
            "missed": counted[0],
            "counted_twice_or_more": total - counted[0] - counted[1],
            "empty_seconds": round(frames / FPS),
            "false_counts": dict(false),
            "false_per_1000_s": round(1000 * FPS * sum(false.values()) / frames, 2),
            "ms_a_frame": round(float(np.median(times)), 3),
        }
