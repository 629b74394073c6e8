"""Frame to decision on 640x480 frames against the bare graph.

And against the preprocessing that most people write.

As on the bin, each frame has just come from the camera and was looked at by the trigger; neither is
timed here.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from edge_runtime.classify import Classifier
from edge_runtime.config import INT8_BUNDLE, TriggerConfig
from edge_runtime.trigger import Trigger
from vision.frames import Frame
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
        classifier = Classifier(INT8_BUNDLE, threads)
        # One session for all three ways: the waiting threads of a second one would spin on the same
        # cores.
        session = classifier._session
        ready = np.zeros((1, 224, 224, 3), np.uint8)

        def bare(_: Any, session: Any = session, ready: Any = ready) -> None:
            session.run(None, {"pixels": ready})

        def plain(frame: Any, session: Any = session) -> None:
            # resize, scale, mean, std, transpose in numpy, as in most tutorials; the graph then
            # runs as it is
            small = (
                cv2.cvtColor(cv2.resize(frame, (224, 224)), cv2.COLOR_BGR2RGB).astype(np.float32)
                / 255
            )
            np.ascontiguousarray(
                ((small - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None]
            )
            bare(frame, session)

        ways: dict[str, Callable[[Any], Any]] = {
            "bare": bare,
            "ours": classifier.classify,
            "plain": plain,
        }
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
        for word in ("median", "p95"):
            row[f"ours_to_bare_{word}"] = round(row[f"ours_ms_{word}"] / row[f"bare_ms_{word}"], 3)
        row["ours_to_plain_median"] = round(row["ours_ms_median"] / row["plain_ms_median"], 3)
        yield row
