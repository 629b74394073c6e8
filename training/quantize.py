"""Static int8 quantisation of a float bundle.

QDQ, calibrated on training images, evaluated and stamped again.

Metadata survives quantisation, so an int8 file would inherit the claims of the float one. Here
every figure, threshold, statistic and the expected output are measured on the int8 graph itself
before it is written, and measured exactly: with graph optimisation off int8 is computed in float,
the same on every processor. What this processor's own kernels make of it is measured beside that,
and a scheme in which the two part is refused. Limits: training/gate.py.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data import Images
from training.evaluate import open_session, run_graph
from training.gate import compare, part
from training.progress import Progress
from training.stamp import expected_output, fit_on, write_measured
from vision.bundle import bundle_digest, read_bundle
from vision.datasets import Dataset
from vision.errors import BundleError
from vision.frames import Pixels
from vision.manifest import Manifest, Precision, Tensors
from vision.preprocess import PreprocessSpec, preprocess

CALIBRATION_IMAGES = 128


@dataclass(frozen=True, slots=True)
class Scheme:
    """How numbers are rounded.

    The default is what was measured to lose least (docs/decisions/0007).

    Attributes:
        per_channel: a scale for each output channel of a weight, not one for the whole.
        method: of the calibrator, by onnxruntime's name: MinMax, Entropy or Percentile.
        percentile: for Percentile: activations beyond it are clipped.
        activations: "uint8", for which x86 has fast kernels, or "int8".
        seven_bits: of the weights, so that sums of two products cannot saturate in the 16 bits of
            an x86 without VNNI. Depthwise convolutions keep eight: seven cost them most, and
            onnxruntime's kernels for them do not saturate.
    """

    per_channel: bool = True
    method: str = "Percentile"
    percentile: float = 99.99
    activations: str = "uint8"
    seven_bits: bool = True


def quantize(
    bundle: Path,
    out: Path,
    train: Dataset,
    val: Dataset,
    threads: int = 2,
    progress: Progress = iter,
) -> Manifest:
    """Quantise a float bundle, measure the result on val, refuse it if it lost too much, write it.

    Args:
        bundle: a float bundle.
        out: file to write.
        train: calibration images are drawn from it, evenly over its order.
        val: images to fit the policy on and to measure with.
        threads: of onnxruntime.
        progress: wraps the images, for a progress bar.

    Raises:
        BundleError: the bundle is not float, or int8 loses more than MAX_ACCURACY_LOSS or, on a
            label, MAX_LABEL_LOSS; the message holds a table of the labels.
    """
    data, source = _read_float(bundle, val)
    tensors = source.tensors
    spec = source.preprocess
    onnx_bytes = quantized_graph(bundle, tensors, spec, train, Scheme(), progress)
    exact = open_session(onnx_bytes, threads, exact=True)
    here = open_session(onnx_bytes, threads)
    single = (open_session(data, 1), open_session(onnx_bytes, 1, exact=True))
    loss = compare(*single, source, val, progress)
    if loss.too_much():
        raise BundleError(
            f"{bundle}: int8 loses too much; keep the float bundle, or train "
            f"longer.\n{loss.table()}"
        )
    outputs = run_graph(exact, tensors, spec, Images(val.samples, 0), progress)
    gap = part(run_graph(here, tensors, spec, Images(val.samples, 0)), outputs)
    if gap.too_much():
        raise BundleError(
            f"{bundle}: this processor computes the int8 graph wrongly: {gap.message()}"
        )
    train_outputs = run_graph(here, tensors, spec, Images(train.samples, 0), progress)
    stats, policy = fit_on(train, train_outputs, val, outputs, source.labels)
    manifest = replace(
        source,
        precision=Precision.INT8,
        stats=stats,
        policy=policy,
        probe=expected_output(exact, tensors, spec, Precision.INT8),
        metrics={
            "int8_against_float": loss.to_dict(),
            "data": source.metrics.get("data", {}),
        },
        lineage={**source.lineage, "float_bundle_sha256": bundle_digest(data)},
    )
    return write_measured(out, onnx_bytes, manifest, train, val, outputs)


def quantized_graph(
    graph: Path,
    tensors: Tensors,
    spec: PreprocessSpec,
    train: Dataset,
    scheme: Scheme,
    progress: Progress = iter,
) -> bytes:
    """Return the ONNX bytes of the int8 graph.

    QDQ, calibrated on images drawn evenly over `train`.

    Args:
        graph: file of the float graph; a bundle is one.
        tensors: names of its tensors.
        spec: of its input.
        train: calibration images are drawn from it.
        scheme: how.
        progress: wraps the images, for a progress bar.
    """
    chosen = np.unique(np.linspace(0, len(train.samples) - 1, CALIBRATION_IMAGES).astype(int))
    samples = tuple(train.samples[i] for i in chosen)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quantized = Path(folder) / "int8.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        options: dict[str, Any] = {
            "TensorQuantOverrides": _overrides(prepared, tensors, spec, scheme)
        }
        if scheme.method == "Percentile":
            options["CalibPercentile"] = scheme.percentile
        with redirect_stdout(io.StringIO()):  # the calibrator prints what it does
            quantize_static(
                str(prepared),
                str(quantized),
                _Calibration(Images(samples, 0), tensors, spec, progress),
                quant_format=QuantFormat.QDQ,
                per_channel=scheme.per_channel,
                reduce_range=scheme.seven_bits,
                activation_type=QuantType.QUInt8
                if scheme.activations == "uint8"
                else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[scheme.method],
                nodes_to_exclude=_normalisation(prepared),
                extra_options=options,
            )
        return quantized.read_bytes()


def _read_float(bundle: Path, val: Dataset) -> tuple[bytes, Manifest]:
    """Return a float bundle's bytes and manifest.

    Raises:
        BundleError: it is not float, or was measured on another val set.
    """
    data, source = read_bundle(bundle)
    if source.precision is not Precision.FP32:
        raise BundleError(f"{bundle}: is {source.precision} already; quantise a float bundle")
    if source.metrics.get("val", {}).get("dataset_sha256") != val.digest():
        raise BundleError(
            f"{bundle}: was measured on another val set; quantise it with the data it was "
            "exported with (--run)"
        )
    return data, source


def _normalisation(model: Path) -> list[str]:
    """Return the names of the nodes between input and first weights, which stay float.

    Scaling bytes in integers would cost time and gain nothing.
    """
    names = []
    for node in onnx.load(str(model)).graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            break
        names.append(node.name)
    return names


def _overrides(
    model: Path, tensors: Tensors, spec: PreprocessSpec, scheme: Scheme
) -> dict[str, list[dict[str, Any]]]:
    """Return what onnxruntime's quantiser must not choose by itself, by tensor."""
    graph = onnx.load(str(model)).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    overrides: dict[str, list[dict[str, Any]]] = {}
    if scheme.seven_bits and scheme.per_channel:
        for node in convolutions:
            if any(a.name == "group" and a.i > 1 for a in node.attribute):
                overrides[node.input[1]] = [
                    {"quant_type": QuantType.QInt8, "reduce_range": False, "axis": 0}
                ]
    if convolutions and scheme.activations == "uint8":
        overrides |= _bytes_as_they_are(model, tensors, spec, convolutions[0].input[0])
    return overrides


def _bytes_as_they_are(
    model: Path, tensors: Tensors, spec: PreprocessSpec, first: str
) -> dict[str, list[dict[str, Any]]]:
    """Return scale and zero point by which the first convolution reads the camera's bytes as int8.

    Empty if there are none.

    Normalised bytes are a grid already. A calibrated grid is another one, and where a byte falls
    between two of its steps, processors choose differently. Channels of different scale
    (ImageNet's) have no such grid in common.
    """
    proto = onnx.load(str(model))
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(first))
    session = open_session(proto.SerializeToString(), 1)
    shape = (1, spec.height_px, spec.width_px, 3)
    ends = [np.full(shape, value, np.uint8) for value in (0, 255)]
    low, high = (np.unique(session.run([first], {tensors.input: x})[0].round(6)) for x in ends)
    if len(low) != 1 or len(high) != 1:
        return {}
    scale = float(high[0] - low[0]) / 255
    zero_point = -float(low[0]) / scale
    if abs(zero_point - round(zero_point)) > 1e-3:
        return {}
    return {
        first: [
            {
                "scale": np.array(scale, np.float32),
                "zero_point": np.array(round(zero_point), np.uint8),
            }
        ]
    }


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds preprocessed images to onnxruntime's calibrator."""

    def __init__(
        self, images: Images, tensors: Tensors, spec: PreprocessSpec, progress: Progress
    ) -> None:
        self._rows: Iterator[dict[str, Pixels]] = iter(
            {tensors.input: preprocess(pixels, spec)} for pixels in progress(list(images))
        )

    def get_next(self) -> dict[str, Pixels] | None:
        """Return the next input, or None at the end."""
        return next(self._rows, None)
