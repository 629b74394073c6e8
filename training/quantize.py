"""Static int8 quantisation of a float bundle: QDQ, calibrated on training pictures, evaluated and stamped anew.

Metadata survives quantisation, so an int8 file would inherit the claims of the float one. Here every figure, threshold,
statistic and the known answer are measured on the int8 graph itself before it is written.
One of the three files that know onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data import Pictures
from training.evaluate import Watch, open_session, run_graph
from training.export import fit_on, known_answer, write_measured
from vision.bundle import Manifest, bundle_digest, read_manifest
from vision.datasets import Dataset
from vision.errors import BundleError
from vision.preprocess import preprocess

CALIBRATION_PICTURES = 128
# Activations beyond it are clipped: on TrashNet this moves the logits least (docs/decisions/0003).
CALIBRATION_PERCENTILE = 99.99
# What int8 may cost against its own float bundle, on val.
MAX_ACCURACY_LOSS = 0.02


def quantize(bundle: Path, out: Path, train: Dataset, val: Dataset, threads: int = 2, watch: Watch = iter) -> Manifest:
    """Quantise a float bundle, measure the result on val, refuse it if it lost too much, write it.

    Weights are signed, per channel; activations unsigned: on x86 the fast kernels want it so (S8S8 takes 2.4 to 2.9
    times longer there), and on ARM both run.

    Args:
        bundle: a float bundle.
        out: file to write.
        train: calibration pictures are drawn from it, evenly over its order.
        val: pictures to fit the policy on and to measure with.

    Raises:
        BundleError: the bundle is not float, or int8 loses more than MAX_ACCURACY_LOSS of accuracy.
    """
    source = read_manifest(bundle)
    if source.precision != "fp32":
        raise BundleError(f"{bundle}: is {source.precision} already; quantise a float bundle")
    before = _val_accuracy(source, val)
    chosen = np.unique(np.linspace(0, len(train.samples) - 1, CALIBRATION_PICTURES).astype(int))
    samples = tuple(train.samples[i] for i in chosen)
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(bundle), str(prepared), skip_symbolic_shape=True)
        with redirect_stdout(sys.stderr):  # the calibrator prints what it is doing
            quantize_static(
                str(prepared),
                str(quantized),
                _Calibration(Pictures(samples, 0), source, watch),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile,
                nodes_to_exclude=_normalisation(prepared),
                extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
            )
        onnx_bytes = quantized.read_bytes()
    session = open_session(onnx_bytes, threads)
    outputs = run_graph(session, source.tensors, source.preprocess, Pictures(val.samples, 0), watch)
    stats, policy = fit_on(session, source.tensors, source.preprocess, train, val, outputs, source.labels, watch)
    manifest = replace(
        source,
        precision="int8",
        stats=stats,
        policy=policy,
        probe=known_answer(session, source.tensors, source.preprocess, "int8"),
        metrics={},
        lineage={**source.lineage, "float_bundle_sha256": bundle_digest(bundle)},
    )
    targets = np.array([source.labels.index(s.label) for s in val.samples])
    accuracy = float((outputs.logits_nk.argmax(1) == targets).mean())
    if accuracy < before - MAX_ACCURACY_LOSS:
        raise BundleError(
            f"{bundle}: int8 loses too much: accuracy {accuracy:.3f} on {val.name} val, {before:.3f} as float "
            f"({MAX_ACCURACY_LOSS} allowed). Keep the float bundle, or train longer."
        )
    return write_measured(out, onnx_bytes, manifest, val, outputs)


def _normalisation(model: Path) -> list[str]:
    """Return the nodes between input and first weights: scaling bytes in integers would cost time and gain nothing."""
    names = []
    for node in onnx.load(str(model)).graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            break
        names.append(node.name)
    return names


def _val_accuracy(source: Manifest, val: Dataset) -> float:
    figures: Any = source.metrics.get("val", {})
    if figures.get("dataset_sha256") != val.digest():
        raise BundleError(
            "the float bundle was measured on another val set; quantise with the data it was exported with"
        )
    return float(figures["accuracy"])


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds preprocessed pictures to onnxruntime's calibrator."""

    def __init__(self, pictures: Pictures, manifest: Manifest, watch: Watch) -> None:
        self._rows: Iterator[Any] = iter(
            {manifest.tensors.input: preprocess(pixels, manifest.preprocess)} for pixels in watch(list(pictures))
        )

    def get_next(self) -> Any:
        """Return the next input, or None at the end."""
        return next(self._rows, None)
