"""Write the pictures as the bin would see them, and the graphs to compare: U8S8, S8S8, U8S8 with weights of 7 bits."""

import sys
from pathlib import Path

import numpy as np

from training.data import open_training_data
from training.quantize import Scheme, quantized_graph
from training.recipes.finetune import load_trained
from vision.bundle import read_manifest
from vision.datasets import read_image
from vision.preprocess import preprocess


def main() -> None:
    """Arguments: float bundle (beside its run), folder to write to, number of pictures."""
    bundle, work, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    manifest = read_manifest(bundle)
    run = bundle.parent
    _, _, config = load_trained(run)
    train, val = open_training_data(config.data, config.seed, run / "pictures")
    chosen = np.unique(np.linspace(0, len(val.samples) - 1, count).astype(int))
    samples = [val.samples[i] for i in chosen]
    np.save(
        work / "pictures.npy", np.concatenate([preprocess(read_image(s.path), manifest.preprocess) for s in samples])
    )
    np.save(work / "truth.npy", np.array([manifest.labels.index(s.label) for s in samples]))
    (work / "u8s8.onnx").write_bytes(quantized_graph(bundle, manifest, train, Scheme()))
    (work / "s8s8.onnx").write_bytes(quantized_graph(bundle, manifest, train, Scheme(activations="int8")))
    (work / "u8s7.onnx").write_bytes(quantized_graph(bundle, manifest, train, Scheme(seven_bits=True)))


if __name__ == "__main__":
    main()
