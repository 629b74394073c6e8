"""What int8 costs, scheme by scheme and label by label: a float bundle against itself.

Graph optimisation is on and off. It needs the run of the shipped bundle (`binsight train --config
configs/trashnet.yaml`, then `binsight export`) in runs/trashnet and prints nothing without it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.data import open_training_data
from training.evaluate import open_session
from training.gate import compare
from training.quantize import Scheme, quantized_graph
from training.runs import load_trained
from vision.bundle import read_bundle

RUN = Path("runs/trashnet")
SCHEMES = (
    Scheme(),
    Scheme(seven_bits=False),
    Scheme(method="MinMax"),
    Scheme(per_channel=False),
    Scheme(activations="int8"),
)


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each scheme, optimised and not.

    A row holds the accuracy lost in all and on each label, and the milliseconds a frame.
    """
    bundle = RUN / "float.onnx"
    if not bundle.is_file():
        return
    data, manifest = read_bundle(bundle)
    _, _, config = load_trained(RUN)
    train, val = open_training_data(config.data, config.seed, RUN / "images")
    for scheme in SCHEMES:
        graph = quantized_graph(bundle, manifest.tensors, manifest.preprocess, train, scheme)
        for optimised in (True, False) if scheme in SCHEMES[:2] else (True,):
            session = open_session(graph, 2, exact=not optimised)
            loss = compare(open_session(data, 2), session, manifest, val)
            spec = manifest.preprocess
            empty = np.zeros((1, spec.height_px, spec.width_px, 3), np.uint8)
            pixels = {manifest.tensors.input: empty}
            times = []
            for _ in range(100):
                started = time.perf_counter()
                session.run(None, pixels)
                times.append(1000 * (time.perf_counter() - started))
            yield {
                "weights": "per channel" if scheme.per_channel else "per tensor",
                "calibration": scheme.method
                + (f" {scheme.percentile}" if scheme.method == "Percentile" else ""),
                "activations": scheme.activations,
                "bits_of_dense_weights": 7 if scheme.seven_bits else 8,
                "graph_optimisation": optimised,
                **loss.to_dict(),
                "refused": loss.too_much(),
                "ms_median": round(float(np.median(times[20:])), 2),
            }
