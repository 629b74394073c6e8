"""Run a bundle over labelled pictures exactly as a bin would: one picture at a time, same preprocessing, same decision.

One of the three files that know onnxruntime. The session options are those of the bin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vision import metrics
from vision.bundle import Manifest, Tensors, bundle_digest, read_bundle
from vision.datasets import Dataset, read_image
from vision.decision import Prediction, decide, to_prediction
from vision.errors import BundleError, DatasetError
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec, preprocess

Watch = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Raw answers of a graph for n pictures.

    Attributes:
        logits_nk, embeddings_nd: float32.
        milliseconds_n: time of the graph alone, each picture.
    """

    logits_nk: NDArray[np.float32]
    embeddings_nd: NDArray[np.float32]
    milliseconds_n: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a bundle does on a dataset.

    Attributes:
        figures: plain numbers for JSON and the manifest.
        predictions: one for each sample, in the dataset's order.
        matrix_kk: counts, row = truth, column = prediction, in the order of the bundle's labels.
        outputs: raw answers.
    """

    figures: dict[str, Any]
    predictions: list[Prediction]
    matrix_kk: NDArray[np.int64]
    outputs: Outputs


def open_session(bundle: bytes, threads: int) -> ort.InferenceSession:
    """Return an onnxruntime session with the options that the bin uses.

    Raises:
        BundleError: onnxruntime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(bundle, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"onnxruntime refuses the graph: {error}") from error


def run_graph(
    session: ort.InferenceSession,
    tensors: Tensors,
    spec: PreprocessSpec,
    pictures: Iterable[Pixels],
    watch: Watch = iter,
) -> Outputs:
    """Run BGR pictures through a graph, one by one."""
    logits, embeddings, times = [], [], []
    for pixels in watch(pictures):
        x_nhwc = preprocess(pixels, spec)
        started = time.perf_counter()
        row, embedding = session.run([tensors.logits, tensors.embedding], {tensors.input: x_nhwc})
        times.append(1000 * (time.perf_counter() - started))
        logits.append(row[0])
        embeddings.append(embedding[0])
    return Outputs(np.array(logits, np.float32), np.array(embeddings, np.float32), np.array(times))


def evaluate(bundle: Path, dataset: Dataset, threads: int = 2, watch: Watch = iter) -> Evaluation:
    """Evaluate a bundle on a dataset.

    Args:
        bundle: verified before use.
        dataset: every label in it must be known to the bundle; select or map before.
        threads: of onnxruntime.
        watch: wraps the pictures, for a progress bar.

    Raises:
        BundleError, DatasetError, ImageError
    """
    data, manifest = read_bundle(bundle)
    session = open_session(data, threads)
    outputs = run_graph(
        session, manifest.tensors, manifest.preprocess, (read_image(s.path) for s in dataset.samples), watch
    )
    predictions, figures, matrix = judge(manifest, dataset, outputs)
    figures["bundle_sha256"] = bundle_digest(data)
    return Evaluation(figures, predictions, matrix, outputs)


def judge(
    manifest: Manifest, dataset: Dataset, outputs: Outputs
) -> tuple[list[Prediction], dict[str, Any], NDArray[np.int64]]:
    """Turn raw outputs into predictions, figures and a confusion matrix.

    Raises:
        DatasetError: the dataset holds a label that the bundle does not know.
    """
    labels = manifest.labels
    if foreign := dataset.labels() - set(labels):
        raise DatasetError(
            f"{dataset.name}: the bundle does not know {', '.join(sorted(foreign))}; map or leave them out"
        )
    predictions = [
        to_prediction(row, embedding, labels, manifest.policy, manifest.stats)
        for row, embedding in zip(outputs.logits_nk, outputs.embeddings_nd, strict=True)
    ]
    truth_n = np.array([labels.index(s.label) for s in dataset.samples])
    predicted_n = np.array([labels.index(p.label) for p in predictions])
    matrix = metrics.confusion_matrix(truth_n, predicted_n, len(labels))
    confidence_n = np.array([p.confidence for p in predictions])
    correct_n = truth_n == predicted_n
    kinds = [decide(p, manifest.policy, manifest.taxonomy).kind for p in predictions]
    known_n = np.array([kind == "known" for kind in kinds])
    groups = [s.group for s in dataset.samples]
    low, high = metrics.group_bootstrap(groups, lambda chosen: float(correct_n[chosen].mean()))
    figures: dict[str, Any] = {
        "dataset": dataset.name,
        "dataset_sha256": dataset.digest(),
        "pictures": len(predictions),
        "accuracy": metrics.accuracy(matrix),
        "accuracy_95": [low, high],
        "macro_f1": metrics.macro_f1(matrix),
        "recall": dict(zip(labels, metrics.recall_per_label(matrix).tolist(), strict=True)),
        "precision": dict(zip(labels, metrics.precision_per_label(matrix).tolist(), strict=True)),
        "calibration_error": metrics.calibration_error(confidence_n, correct_n),
        # Thresholds and temperature look better on the very pictures that they were fitted on.
        "policy_fitted_on_these_pictures": manifest.lineage.get("val_sha256") == dataset.digest(),
        "decided_share": float(known_n.mean()),
        "decided_accuracy": float(correct_n[known_n].mean()) if known_n.any() else None,
        "graph_ms_median": float(np.median(outputs.milliseconds_n)),
    }
    return predictions, figures, matrix
