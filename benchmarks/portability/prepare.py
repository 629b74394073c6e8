"""Write val images as the bin would see them.

python -m benchmarks.portability.prepare FOLDER COUNT
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from edge_runtime.config import FLOAT_BUNDLE, INT8_BUNDLE
from vision.bundle import read_manifest
from vision.datasets import open_dataset, read_image
from vision.preprocess import preprocess


def main() -> None:
    """Write COUNT images, drawn evenly over TrashNet's val, and the shipped bundles to FOLDER."""
    work = Path(sys.argv[1])
    count = int(sys.argv[2])
    manifest = read_manifest(INT8_BUNDLE)
    samples = open_dataset(Path("../shared/data/trashnet")).select("val").samples
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, count).astype(int))]
    np.save(
        work / "images.npy",
        np.concatenate([preprocess(read_image(s.path), manifest.preprocess) for s in chosen]),
    )
    np.save(work / "truth.npy", np.array([manifest.labels.index(s.label) for s in chosen]))
    shutil.copy(INT8_BUNDLE, work / "int8.onnx")
    shutil.copy(FLOAT_BUNDLE, work / "float.onnx")


if __name__ == "__main__":
    main()
