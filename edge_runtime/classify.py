"""A verified bundle as a classifier. The bin's only address of onnxruntime."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vision.bundle import MIN_PROBE_COSINE, bundle_digest, probe_frame, read_bundle
from vision.decision import Decision, Prediction, decide, to_prediction
from vision.errors import BundleError
from vision.frames import Pixels
from vision.manifest import Manifest
from vision.preprocess import preprocess


@dataclass(frozen=True, slots=True)
class Classified:
    """One classified image with its stage times."""

    prediction: Prediction
    decision: Decision
    preprocess_ms: float
    inference_ms: float


def runtime_version() -> str:
    """Return the version of what computes the graphs."""
    return str(ort.__version__)


class Classifier:
    """Loads a bundle, has it prove itself, then classifies frames.

    Args:
        bundle: path of the ONNX file.
        threads: of onnxruntime.

    Raises:
        BundleError: damaged, of an unknown schema, of another precision than it says, or it does
            not reproduce its expected output on this machine.
    """

    def __init__(self, bundle: Path, threads: int = 2) -> None:
        data, manifest = read_bundle(bundle)
        self.manifest: Manifest = manifest
        self.digest = bundle_digest(data)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(f"{bundle}: onnxruntime refuses the graph: {error}") from error
        self._prove(bundle)

    def classify(self, pixels_hwc: Pixels) -> Classified:
        """Classify one image: uint8, height x width x 3, BGR.

        Raises:
            BundleError: the graph failed, whatever onnxruntime threw.
        """
        try:
            return self._classify(pixels_hwc)
        except Exception as error:
            raise BundleError(f"the classifier failed: {error!r}") from error

    def _classify(self, pixels_hwc: Pixels) -> Classified:
        m = self.manifest
        started = time.perf_counter()
        x_nhwc = preprocess(pixels_hwc, m.preprocess)
        ready = time.perf_counter()
        logits_nk, embedding_nd = self._session.run(
            [m.tensors.logits, m.tensors.embedding], {m.tensors.input: x_nhwc}
        )
        done = time.perf_counter()
        prediction = to_prediction(logits_nk[0], embedding_nd[0], m.labels, m.policy, m.stats)
        decision = decide(prediction, m.policy, m.taxonomy)
        return Classified(prediction, decision, 1000 * (ready - started), 1000 * (done - ready))

    def _prove(self, bundle: Path) -> None:
        m = self.manifest
        try:
            x_nhwc = preprocess(probe_frame(), m.preprocess)
            (logits,), (embedding,) = self._session.run(
                [m.tensors.logits, m.tensors.embedding], {m.tensors.input: x_nhwc}
            )
        except Exception as error:
            raise BundleError(f"{bundle}: the graph does not run: {error}") from error
        if embedding.shape != m.stats.centroids_kd.shape[1:]:
            raise BundleError(
                f"{bundle}: the graph's embedding is not of the size that the manifest's "
                "statistics are for"
            )
        known = np.array(m.probe.embedding)
        lengths = float(np.linalg.norm(known) * np.linalg.norm(embedding))
        cosine = float(known @ embedding) / lengths if lengths else 0.0
        worst = (
            float(np.abs(logits - np.array(m.probe.logits)).max())
            if len(logits) == len(m.labels)
            else np.inf
        )
        if not (worst <= m.probe.tolerance and cosine >= MIN_PROBE_COSINE):
            raise BundleError(
                f"{bundle}: the expected output is missed by {worst:.3g} ({m.probe.tolerance} "
                "allowed), its embedding's "
                f"cosine is {cosine:.3f} ({MIN_PROBE_COSINE} needed); "
                "this machine computes the model wrongly, or the file is damaged"
            )
