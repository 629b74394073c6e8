"""Static int8 quantisation of a float bundle.

QDQ, calibrated on training images, evaluated and stamped again.

Metadata survives quantisation, so an int8 file would inherit the claims of the float one. Here
every figure, threshold, statistic and the expected output are measured on the int8 graph itself
before it is written, and measured exactly: with graph optimisation off int8 is computed in float,
the same on every processor. What this processor's own kernels make of it is measured beside that,
and a scheme in which the two part is refused. One of the three files that know onnxruntime.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data import Images
from training.evaluate import Outputs, Progress, open_session, run_graph
from training.export import expected_output, fit_on, write_measured
from vision.bundle import bundle_digest, read_bundle
from vision.datasets import Dataset, read_image
from vision.errors import BundleError
from vision.frames import Pixels
from vision.manifest import Manifest, Precision
from vision.preprocess import preprocess

CALIBRATION_IMAGES = 128
# What int8 may cost against its own float bundle on val: in all, and on any one label; each image
# in VIEWS ways.
MAX_ACCURACY_LOSS = 0.005
# What this processor's kernels may differ by from the exact computation, over the val images as
# they are: rounding in other places moves a few. Saturation moves many, and far
# (docs/decisions/0011).
MAX_OTHER_LABELS = 0.01
MIN_MEAN_COSINE = 0.999
MAX_LABEL_LOSS = 0.02
# Each image is scored in all turns and flips: an item lies any way up, and one image of a rare
# label is more than two points of it, so that a loss could not be told from luck.
VIEWS = 8


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
    scheme: Scheme = Scheme(),
) -> Manifest:
    """Quantise a float bundle, measure the result on val, refuse it if it lost too much, write it.

    Args:
        bundle: a float bundle.
        out: file to write.
        train: calibration images are drawn from it, evenly over its order.
        val: images to fit the policy on and to measure with.

    Raises:
        BundleError: the bundle is not float, or int8 loses more than MAX_ACCURACY_LOSS or, on a
            label, MAX_LABEL_LOSS; the message holds a table of the labels.
    """
    data, source = read_bundle(bundle)
    if source.precision is not Precision.FP32:
        raise BundleError(f"{bundle}: is {source.precision} already; quantise a float bundle")
    if source.metrics.get("val", {}).get("dataset_sha256") != val.digest():
        raise BundleError(
            f"{bundle}: was measured on another val set; quantise it with the data it was "
            "exported with (--run)"
        )
    onnx_bytes = quantized_graph(bundle, source, train, scheme, progress)
    exact = open_session(onnx_bytes, threads, exact=True)
    before = open_session(data, threads)
    here = open_session(onnx_bytes, threads)
    loss = compare(before, exact, source, val, progress)
    if loss.too_much():
        raise BundleError(
            f"{bundle}: int8 loses too much; keep the float bundle, or train "
            f"longer.\n{loss.table()}"
        )
    outputs = run_graph(exact, source.tensors, source.preprocess, Images(val.samples, 0), progress)
    gap = part(run_graph(here, source.tensors, source.preprocess, Images(val.samples, 0)), outputs)
    if gap.too_much():
        raise BundleError(
            f"{bundle}: this processor computes the int8 graph wrongly: {gap.message()}"
        )
    stats, policy = fit_on(
        here, source.tensors, source.preprocess, train, val, outputs, source.labels, progress
    )
    manifest = replace(
        source,
        precision=Precision.INT8,
        stats=stats,
        policy=policy,
        probe=expected_output(exact, source.tensors, source.preprocess, Precision.INT8),
        metrics={"int8_against_float": loss.to_dict()},
        lineage={**source.lineage, "float_bundle_sha256": bundle_digest(data)},
    )
    return write_measured(out, onnx_bytes, manifest, train, val, outputs)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two computations of one graph are apart, over n images.

    Attributes:
        images: n.
        other_labels: images that get another label.
        logit: greatest difference of a logit.
        least_cosine, mean_cosine: between the two embeddings of an image.
    """

    images: int
    other_labels: int
    logit: float
    least_cosine: float
    mean_cosine: float

    def too_much(self) -> bool:
        """Return whether this is more than rounding."""
        return (
            self.other_labels > max(1, MAX_OTHER_LABELS * self.images)
            or self.mean_cosine < MIN_MEAN_COSINE
        )

    def message(self) -> str:
        """Return a line for people."""
        return (
            f"{self.other_labels} of {self.images} labels differ from the exact computation, a "
            "logit by "
            f"{self.logit:.2g}, an embedding's cosine down to {self.least_cosine:.4f} (mean "
            f"{self.mean_cosine:.5f})"
        )


def part(here: Outputs, exact: Outputs) -> Gap:
    """Return how far the outputs of two computations of one graph are apart."""
    a = here.embeddings_nd
    b = exact.embeddings_nd
    cosines = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12
    )
    other = int((here.logits_nk.argmax(1) != exact.logits_nk.argmax(1)).sum())
    greatest = float(np.abs(here.logits_nk - exact.logits_nk).max())
    return Gap(len(a), other, greatest, float(cosines.min()), float(cosines.mean()))


def quantized_graph(
    bundle: Path, source: Manifest, train: Dataset, scheme: Scheme, progress: Progress = iter
) -> bytes:
    """Return the ONNX bytes of the int8 graph.

    QDQ, calibrated on images drawn evenly over `train`.
    """
    chosen = np.unique(np.linspace(0, len(train.samples) - 1, CALIBRATION_IMAGES).astype(int))
    samples = tuple(train.samples[i] for i in chosen)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quantized = Path(folder) / "int8.onnx"
        quant_pre_process(str(bundle), str(prepared), skip_symbolic_shape=True)
        options: dict[str, Any] = {"TensorQuantOverrides": _overrides(prepared, source, scheme)}
        if scheme.method == "Percentile":
            options["CalibPercentile"] = scheme.percentile
        with redirect_stdout(io.StringIO()):  # the calibrator tells of its inner life
            quantize_static(
                str(prepared),
                str(quantized),
                _Calibration(Images(samples, 0), source, progress),
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


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 gets right against float, over all views of the same images.

    Attributes:
        images: of each label.
        before, after: accuracy of each label, float and int8, 0..1.
        overall: accuracy of float minus that of int8.
        upright: the same on the images as they are, once each.
    """

    images: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    overall: float
    upright: float

    def too_much(self) -> bool:
        """Return whether the bundle must be refused."""
        worst = max(self.before[label] - self.after[label] for label in self.before)
        return max(self.overall, self.upright) > MAX_ACCURACY_LOSS or worst > MAX_LABEL_LOSS

    def table(self) -> str:
        """Return a table for people: where it is lost."""
        rows = [f"{'label':<12}{'images':>9}{'float':>8}{'int8':>8}{'lost':>8}"]
        for label, before in self.before.items():
            lost = before - self.after[label]
            mark = "  over the limit" if lost > MAX_LABEL_LOSS else ""
            rows.append(
                f"{label:<12}{self.images[label]:>9}{before:>8.3f}{self.after[label]:>8.3f}{lost:>8.3f}{mark}"
            )
        rows.append(
            f"lost in all {self.overall:.4f}, upright alone {self.upright:.4f}; "
            f"allowed {MAX_ACCURACY_LOSS} in all, {MAX_LABEL_LOSS} on a label, "
            f"each image in {VIEWS} turns and flips"
        )
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a manifest stores."""
        lost = {label: round(self.before[label] - self.after[label], 5) for label in self.before}
        return {
            "views_of_each_image": VIEWS,
            "lost": round(self.overall, 5),
            "lost_upright": round(self.upright, 5),
            "lost_on": lost,
        }


def compare(
    before: InferenceSession,
    after: InferenceSession,
    manifest: Manifest,
    val: Dataset,
    progress: Progress = iter,
) -> Loss:
    """Run two graphs of one manifest over every view of the images and count what each gets right."""
    labels = manifest.labels
    right = np.zeros((2, len(labels)))
    upright = [0, 0]
    images = np.zeros(len(labels), dtype=np.int64)
    tensors = manifest.tensors
    for sample in progress(val.samples):
        truth = labels.index(sample.label)
        images[truth] += 1
        for turn, view in enumerate(views(read_image(sample.path))):
            x_nhwc = preprocess(view, manifest.preprocess)
            for row, session in enumerate((before, after)):
                (logits,) = session.run([tensors.logits], {tensors.input: x_nhwc})
                correct = bool(logits[0].argmax() == truth)
                right[row, truth] += correct
                upright[row] += correct and turn == 0
    there = images > 0
    shares = right[:, there] / (VIEWS * images[there])
    names = [label for label, is_there in zip(labels, there, strict=True) if is_there]
    return Loss(
        dict(zip(names, images[there].tolist(), strict=True)),
        dict(zip(names, shares[0].tolist(), strict=True)),
        dict(zip(names, shares[1].tolist(), strict=True)),
        float((right[0].sum() - right[1].sum()) / (VIEWS * images.sum())),
        (upright[0] - upright[1]) / int(images.sum()),
    )


def views(pixels_hwc: Pixels) -> list[Pixels]:
    """Return an image in its eight turns and flips."""
    return [
        np.ascontiguousarray(np.rot90(side, turn))
        for side in (pixels_hwc, pixels_hwc[:, ::-1])
        for turn in range(4)
    ]


def _normalisation(model: Path) -> list[str]:
    """Return the nodes between input and first weights: scaling bytes in integers would cost time and gain nothing."""
    names = []
    for node in onnx.load(str(model)).graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            break
        names.append(node.name)
    return names


def _overrides(model: Path, manifest: Manifest, scheme: Scheme) -> dict[str, list[dict[str, Any]]]:
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
        overrides |= _bytes_as_they_are(model, manifest, convolutions[0].input[0])
    return overrides


def _bytes_as_they_are(
    model: Path, manifest: Manifest, first: str
) -> dict[str, list[dict[str, Any]]]:
    """Return scale and zero point with which the first convolution's int8 input is the camera's bytes, if there are.

    Normalised bytes are a grid already. A calibrated grid is another one, and where a byte falls
    between two of its steps, processors choose differently. Channels of different scale
    (ImageNet's) have no such grid in common.
    """
    proto = onnx.load(str(model))
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(first))
    session = open_session(proto.SerializeToString(), 1)
    height = manifest.preprocess.height_px
    width = manifest.preprocess.width_px
    ends = [np.full((1, height, width, 3), value, np.uint8) for value in (0, 255)]
    low, high = (
        np.unique(session.run([first], {manifest.tensors.input: x})[0].round(6)) for x in ends
    )
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

    def __init__(self, images: Images, manifest: Manifest, progress: Progress) -> None:
        self._rows: Iterator[Any] = iter(
            {manifest.tensors.input: preprocess(pixels, manifest.preprocess)}
            for pixels in progress(list(images))
        )

    def get_next(self) -> Any:
        """Return the next input, or None at the end."""
        return next(self._rows, None)
