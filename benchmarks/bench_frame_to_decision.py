"""Frame to decision on 640x480 frames, against the bare graph and against plain preprocessing.

Plain is the preprocessing that most people write. As on the bin, each frame has just come from the
camera and gone through the trigger; neither is timed here.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from edge_runtime.classify import Classifier
from edge_runtime.config import INT8_BUNDLE, TriggerConfig
from edge_runtime.trigger import Trigger
from vision.frames import Frame, Pixels
from vision.simulator.scene import render

ROUNDS = 400


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each number of threads.

    The three ways take turns, so that a busy moment meets them all.
    """
    frames = [
        render(label, 640, 480, seed)
        for seed, label in enumerate(("glass", "paper", "metal", "plastic"))
    ]
    cv2.setNumThreads(1)
    for threads in (1, 2):
        ways = _ways(Classifier(INT8_BUNDLE, threads))
        trigger = Trigger(TriggerConfig())
        times: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(ROUNDS):
            for name, way in ways.items():
                frame = Frame(frames[i % len(frames)].copy(), i, 0.0)
                trigger.step(frame)
                started = time.perf_counter()
                way(frame.pixels_hwc)
                times[name].append(1000 * (time.perf_counter() - started))
        row: dict[str, Any] = {
            "threads": threads,
            "frame": "640x480",
            "bundle_mb": INT8_BUNDLE.stat().st_size / 1e6,
        }
        for name, values in times.items():
            row[f"{name}_ms_median"], row[f"{name}_ms_p95"] = (
                round(float(np.percentile(values[50:], q)), 3) for q in (50, 95)
            )
        for part in ("median", "p95"):
            row[f"ours_to_bare_{part}"] = round(row[f"ours_ms_{part}"] / row[f"bare_ms_{part}"], 3)
        row["ours_to_plain_median"] = round(row["ours_ms_median"] / row["plain_ms_median"], 3)
        yield row


def _ways(classifier: Classifier) -> dict[str, Callable[[Pixels], object]]:
    # One session for all three ways: the waiting threads of a second one would spin on the same
    # cores.
    session = classifier._session
    ready = np.zeros((1, 224, 224, 3), np.uint8)

    def bare(_: Pixels) -> None:
        session.run(None, {"pixels": ready})

    def plain(frame: Pixels) -> None:
        # Resize, scale, mean, standard deviation and transpose in numpy, as in most tutorials; then
        # the graph runs as it is.
        rgb = cv2.cvtColor(cv2.resize(frame, (224, 224)), cv2.COLOR_BGR2RGB)
        scaled = (rgb.astype(np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        bare(frame)

    return {"bare": bare, "ours": classifier.classify, "plain": plain}
