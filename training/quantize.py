"""Static int8 quantisation of a float bundle: QDQ, calibrated on training pictures, evaluated and stamped anew.

Metadata survives quantisation, so an int8 file would inherit the claims of the float one. Here every figure, threshold,
statistic and the known answer are measured on the int8 graph itself before it is written.
One of the three files that know onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data import Pictures
from training.evaluate import Watch, open_session, run_graph
from training.export import fit_on, known_answer, write_measured
from vision.bundle import Manifest, bundle_digest, read_bundle
from vision.datasets import Dataset, read_image
from vision.errors import BundleError
from vision.frames import Pixels
from vision.preprocess import preprocess

CALIBRATION_PICTURES = 128
# What int8 may cost against its own float bundle on val: in all, and on any one label; each picture in VIEWS ways.
MAX_ACCURACY_LOSS = 0.005
MAX_LABEL_LOSS = 0.02
# Each picture is judged in all turns and flips: an item lies any way up, and one picture of a rare label is more than
# two points of it, so that a loss could not be told from luck.
VIEWS = 8


@dataclass(frozen=True, slots=True)
class Scheme:
    """How numbers are rounded; the default is what was measured to lose least (docs/decisions/0007).

    Attributes:
        per_channel: a scale for each output channel of a weight, not one for the whole.
        method: of the calibrator, by onnxruntime's name: MinMax, Entropy or Percentile.
        percentile: for Percentile: activations beyond it are clipped.
        activations: "uint8", for which x86 has fast kernels, or "int8".
        seven_bits: of the weights, so that products cannot saturate on an x86 without VNNI.
    """

    per_channel: bool = True
    method: str = "Percentile"
    percentile: float = 99.99
    activations: str = "uint8"
    seven_bits: bool = False


def quantize(
    bundle: Path,
    out: Path,
    train: Dataset,
    val: Dataset,
    threads: int = 2,
    watch: Watch = iter,
    scheme: Scheme = Scheme(),
) -> Manifest:
    """Quantise a float bundle, measure the result on val, refuse it if it lost too much, write it.

    Args:
        bundle: a float bundle.
        out: file to write.
        train: calibration pictures are drawn from it, evenly over its order.
        val: pictures to fit the policy on and to measure with.

    Raises:
        BundleError: the bundle is not float, or int8 loses more than MAX_ACCURACY_LOSS or, on a label, MAX_LABEL_LOSS;
            the message holds a table of the labels.
    """
    data, source = read_bundle(bundle)
    if source.precision != "fp32":
        raise BundleError(f"{bundle}: is {source.precision} already; quantise a float bundle")
    if source.metrics.get("val", {}).get("dataset_sha256") != val.digest():
        raise BundleError(
            f"{bundle}: was measured on another val set; quantise it with the data it was exported with (--run)"
        )
    onnx_bytes = quantized_graph(bundle, source, train, scheme, watch)
    session, before = open_session(onnx_bytes, threads), open_session(data, threads)
    loss = compare(before, session, source, val, watch)
    if loss.too_much():
        raise BundleError(f"{bundle}: int8 loses too much; keep the float bundle, or train longer.\n{loss.table()}")
    outputs = run_graph(session, source.tensors, source.preprocess, Pictures(val.samples, 0), watch)
    stats, policy = fit_on(session, source.tensors, source.preprocess, train, val, outputs, source.labels, watch)
    manifest = replace(
        source,
        precision="int8",
        stats=stats,
        policy=policy,
        probe=known_answer(session, source.tensors, source.preprocess, "int8"),
        metrics={"int8_against_float": loss.to_dict()},
        lineage={**source.lineage, "float_bundle_sha256": bundle_digest(data)},
    )
    return write_measured(out, onnx_bytes, manifest, train, val, outputs)


def quantized_graph(bundle: Path, source: Manifest, train: Dataset, scheme: Scheme, watch: Watch = iter) -> bytes:
    """Return the ONNX bytes of the int8 graph: QDQ, calibrated on pictures drawn evenly over `train`."""
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
                per_channel=scheme.per_channel,
                reduce_range=scheme.seven_bits,
                activation_type=QuantType.QUInt8 if scheme.activations == "uint8" else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[scheme.method],
                nodes_to_exclude=_normalisation(prepared),
                extra_options={"CalibPercentile": scheme.percentile} if scheme.method == "Percentile" else {},
            )
        return quantized.read_bytes()


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 gets right against float, over all views of the same pictures.

    Attributes:
        pictures: of each label.
        before, after: accuracy of each label, float and int8, 0..1.
        overall: accuracy of float minus that of int8.
        upright: the same on the pictures as they are, once each.
    """

    pictures: Mapping[str, int]
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
        rows = [f"{'label':<12}{'pictures':>9}{'float':>8}{'int8':>8}{'lost':>8}"]
        for label, before in self.before.items():
            lost = before - self.after[label]
            mark = "  over the limit" if lost > MAX_LABEL_LOSS else ""
            rows.append(
                f"{label:<12}{self.pictures[label]:>9}{before:>8.3f}{self.after[label]:>8.3f}{lost:>8.3f}{mark}"
            )
        rows.append(
            f"lost in all {self.overall:.4f}, upright alone {self.upright:.4f}; "
            f"allowed {MAX_ACCURACY_LOSS} in all, {MAX_LABEL_LOSS} on a label, "
            f"each picture in {VIEWS} turns and flips"
        )
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a manifest stores."""
        lost = {label: round(self.before[label] - self.after[label], 5) for label in self.before}
        return {
            "views_of_each_picture": VIEWS,
            "lost": round(self.overall, 5),
            "lost_upright": round(self.upright, 5),
            "lost_on": lost,
        }


def compare(
    before: InferenceSession, after: InferenceSession, manifest: Manifest, val: Dataset, watch: Watch = iter
) -> Loss:
    """Run two graphs of one manifest over every view of the pictures and count what each gets right."""
    labels = manifest.labels
    right = np.zeros((2, len(labels)))
    upright = [0, 0]
    pictures = np.zeros(len(labels), dtype=np.int64)
    tensors = manifest.tensors
    for sample in watch(val.samples):
        truth = labels.index(sample.label)
        pictures[truth] += 1
        for turn, view in enumerate(views(read_image(sample.path))):
            x_nhwc = preprocess(view, manifest.preprocess)
            for row, session in enumerate((before, after)):
                (logits,) = session.run([tensors.logits], {tensors.input: x_nhwc})
                correct = bool(logits[0].argmax() == truth)
                right[row, truth] += correct
                upright[row] += correct and turn == 0
    there = pictures > 0
    shares = right[:, there] / (VIEWS * pictures[there])
    names = [label for label, is_there in zip(labels, there, strict=True) if is_there]
    return Loss(
        dict(zip(names, pictures[there].tolist(), strict=True)),
        dict(zip(names, shares[0].tolist(), strict=True)),
        dict(zip(names, shares[1].tolist(), strict=True)),
        float((right[0].sum() - right[1].sum()) / (VIEWS * pictures.sum())),
        (upright[0] - upright[1]) / int(pictures.sum()),
    )


def views(pixels_hwc: Pixels) -> list[Pixels]:
    """Return a picture in its eight turns and flips."""
    return [
        np.ascontiguousarray(np.rot90(side, turn)) for side in (pixels_hwc, pixels_hwc[:, ::-1]) for turn in range(4)
    ]


def _normalisation(model: Path) -> list[str]:
    """Return the nodes between input and first weights: scaling bytes in integers would cost time and gain nothing."""
    names = []
    for node in onnx.load(str(model)).graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            break
        names.append(node.name)
    return names


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds preprocessed pictures to onnxruntime's calibrator."""

    def __init__(self, pictures: Pictures, manifest: Manifest, watch: Watch) -> None:
        self._rows: Iterator[Any] = iter(
            {manifest.tensors.input: preprocess(pixels, manifest.preprocess)} for pixels in watch(list(pictures))
        )

    def get_next(self) -> Any:
        """Return the next input, or None at the end."""
        return next(self._rows, None)
