"""Images a second of the procedural bin camera, one thread."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from vision.frames import Pixels
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.scene import expose, place_item, random_chute, render


def measure() -> Iterator[dict[str, Any]]:
    """Yield camera frames of a lying item, and stills that are made again each time."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    chute = random_chute(640, 480, rng)
    item = place_item(chute, "glass", rng)
    yield {
        "what": "camera frame",
        "size": "640x480",
        **_rate(lambda _: expose(chute, item, rng), 100),
    }
    labels = tuple(CATALOGUE)
    yield {
        "what": "new scene",
        "size": "320x240",
        **_rate(lambda i: render(labels[i % 10], 320, 240, i), 100),
    }


def _rate(make: Callable[[int], Pixels], count: int) -> dict[str, float]:
    times = []
    for i in range(count):
        started = time.perf_counter()
        make(i)
        times.append(1000 * (time.perf_counter() - started))
    return {
        "ms_median": round(float(np.median(times)), 2),
        "per_second": round(1000 / float(np.median(times)), 1),
    }
