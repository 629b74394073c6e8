"""Frame to decision against Ultralytics' `predict()` on its own nano classifier.

That is what a user would take instead. Ultralytics is AGPL-3.0, so it is no dependency of ours, not
even of development:

    pip install --no-deps --target build/ultralytics ultralytics
    PYTHONPATH=build/ultralytics make bench ARGS=ultralytics

Its network is built untrained: its time does not depend on the weights, and nothing is downloaded.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_runtime.classify import Classifier
from edge_runtime.config import INT8_BUNDLE
from vision.simulator.scene import render

BLOCKS = 5
FRAMES = 60
WARM = 10
THREADS = 2


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row; the two take turns, a block of frames each.

    If they took turns frame by frame, the threads of the one that waits would spin on the cores of
    the other.
    """
    if importlib.util.find_spec("ultralytics") is None:
        yield {"skipped": "ultralytics is not installed; how to: benchmarks/bench_ultralytics.py"}
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["YOLO_CONFIG_DIR"] = folder
        os.environ["OMP_NUM_THREADS"] = str(THREADS)
        from ultralytics import YOLO, __version__  # noqa: PLC0415  no dependency of ours
        from ultralytics.utils import LOGGER  # noqa: PLC0415  no dependency of ours

        LOGGER.setLevel("ERROR")
        exported = YOLO("yolo11n-cls.yaml", task="classify").export(
            format="onnx", imgsz=224, verbose=False
        )
        theirs = YOLO(exported, task="classify")
        cv2.setNumThreads(1)
        ours = Classifier(INT8_BUNDLE, THREADS)
        frames = [
            render(label, 640, 480, seed)
            for seed, label in enumerate(("glass", "paper", "metal", "plastic"))
        ]
        ways: dict[str, Callable[[Any], Any]] = {
            "ours": ours.classify,
            "ultralytics": lambda frame: theirs.predict(frame, imgsz=224, verbose=False),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(BLOCKS):
            for name, way in ways.items():
                for i in range(FRAMES):
                    started = time.perf_counter()
                    way(frames[i % len(frames)])
                    if i >= WARM:
                        times[name].append(1000 * (time.perf_counter() - started))
        Path(exported).unlink()
        row: dict[str, Any] = {
            "ultralytics": __version__,
            "network": "yolo11n-cls",
            "threads": THREADS,
        }
        for name, values in times.items():
            for q, part in ((50, "median"), (95, "p95")):
                row[f"{name}_ms_{part}"] = round(float(np.percentile(values, q)), 2)
        row["ultralytics_to_ours_median"] = round(
            row["ultralytics_ms_median"] / row["ours_ms_median"], 2
        )
        yield row
