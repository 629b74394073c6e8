"""A trained run in, a float bundle out.

One ONNX file, manifest inside, compared with torch on every image.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from training.config import TrainConfig
from training.data import (
    Images,
    image_counts,
    open_outliers,
    open_training_data,
    set_digests,
)
from training.device import no_denormals
from training.evaluate import Outputs, open_session, run_graph
from training.models import Classifier
from training.progress import Progress
from training.runs import Run, load_trained
from training.stamp import expected_output, fit_on, write_measured
from vision.datasets import Dataset
from vision.errors import BundleError
from vision.manifest import Manifest, Precision, Tensors
from vision.preprocess import PreprocessSpec, preprocess
from vision.taxonomy import MATERIALS_1

OPSET = 20
# Smaller tensors, biases and scales, stay as they are: nothing is to be won by them.
HALF_FROM_VALUES = 4096
TENSORS = Tensors("pixels", "logits", "embedding")
MAX_LOGIT_DIFFERENCE = 1e-3
# Weights are stored in 16 bits and computed with in 32: half the file, at the cost of the last
# digits of a logit.
MAX_HALF_DIFFERENCE = 0.1


@no_denormals()
def export(run: Path, out: Path, threads: int = 2, progress: Progress = iter) -> Manifest:
    """Export a run's kept weights, compare them with torch, fit the policy, write the bundle.

    Graph and torch are compared on every val image.

    Args:
        run: folder of a training run.
        out: file to write.
        threads: of onnxruntime.
        progress: wraps the images, for a progress bar.

    Raises:
        BundleError: graph and torch disagree on a label, or on a logit by more than
            MAX_LOGIT_DIFFERENCE.
    """
    model, labels, config = load_trained(run)
    # The bin's frames are BGR: the order is turned once here instead of in every frame.
    model.use_bgr()
    spec = replace(config.model.bundle_preprocess(), colour_order="bgr")
    folder = Run(run)
    train, val = open_training_data(config.data, config.seed, folder.images)
    folder.must_be_of(train, val)
    outliers = open_outliers(config.data, labels, "train", config.seed, folder.outliers)
    whole = to_onnx(model, spec)
    full = run_graph(open_session(whole, threads), TENSORS, spec, Images(val.samples, 0), progress)
    difference = compare_with_torch(model, spec, Images(val.samples, 0), full)
    onnx_bytes = with_half_weights(whole)
    session = open_session(onnx_bytes, threads)
    outputs = run_graph(session, TENSORS, spec, Images(val.samples, 0), progress)
    moved = _difference_of_half_weights(run, full, outputs)
    train_outputs = run_graph(session, TENSORS, spec, Images(train.samples, 0), progress)
    stats, policy = fit_on(train, train_outputs, val, outputs, labels)
    manifest = Manifest(
        model_id=f"{config.model.name.rpartition(':')[2]}-{train.name}",
        precision=Precision.FP32,
        taxonomy_id=MATERIALS_1.id,
        labels=labels,
        preprocess=spec,
        tensors=TENSORS,
        policy=policy,
        stats=stats,
        probe=expected_output(session, TENSORS, spec, Precision.FP32),
        metrics={
            "torch_logit_difference": difference,
            "half_weights_logit_difference": moved,
            "data": {
                part: image_counts(images)
                for part, images in (("train", train), ("val", val), ("outliers", outliers))
            },
        },
        lineage=_lineage(folder, config, train, val, outliers),
        data_licences=_licences(train, outliers)
        | ({"note": config.data.note} if config.data.note else {}),
    )
    return write_measured(out, onnx_bytes, manifest, train, val, outputs)


def to_onnx(model: Classifier, spec: PreprocessSpec) -> bytes:
    """Return the ONNX bytes of a model: uint8 pixels in, logits and embedding out (see TENSORS)."""
    example = torch.zeros((1, spec.height_px, spec.width_px, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        verbose=False,
        input_names=[TENSORS.input],
        output_names=[TENSORS.logits, TENSORS.embedding],
    )
    if program is None:
        raise BundleError("torch exported no program")
    proto = program.model_proto
    # torch notes the source line of every node, with its path on this machine.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    return bytes(proto.SerializeToString())


def with_half_weights(onnx_bytes: bytes) -> bytes:
    """Return the graph with its large weights stored as float16.

    A Cast to float32, which onnxruntime folds, follows each.
    """
    model = onnx.load_from_string(onnx_bytes)
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < HALF_FROM_VALUES:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [f"{name}.half"], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def compare_with_torch(
    model: Classifier, spec: PreprocessSpec, images: Images, outputs: Outputs
) -> float:
    """Return the greatest difference of a logit between the graph's outputs and torch.

    Raises:
        BundleError: a label differs, or a logit by more than MAX_LOGIT_DIFFERENCE.
    """
    with torch.inference_mode():
        rows = [model(torch.from_numpy(preprocess(pixels, spec)))[0].numpy() for pixels in images]
    torch_nk = np.concatenate(rows)
    difference = float(np.abs(outputs.logits_nk - torch_nk).max())
    changed = int((outputs.logits_nk.argmax(1) != torch_nk.argmax(1)).sum())
    if changed or difference > MAX_LOGIT_DIFFERENCE:
        raise BundleError(
            f"the exported graph does not agree with torch: {changed} of {len(images)} labels "
            "differ, "
            f"logits by up to {difference:.2g} ({MAX_LOGIT_DIFFERENCE} allowed)"
        )
    return difference


def _difference_of_half_weights(run: Path, full: Outputs, half: Outputs) -> float:
    """Return the greatest difference of a logit that weights of 16 bits make.

    Raises:
        BundleError: it is more than MAX_HALF_DIFFERENCE.
    """
    moved = float(np.abs(half.logits_nk - full.logits_nk).max())
    if moved > MAX_HALF_DIFFERENCE:
        raise BundleError(
            f"{run}: weights of 16 bits move a logit by {moved:.2g} ({MAX_HALF_DIFFERENCE} "
            "allowed): they are too "
            "large or too small for them, which a training that went well does not give"
        )
    return moved


def _lineage(
    run: Run, config: TrainConfig, train: Dataset, val: Dataset, outliers: Dataset
) -> dict[str, str]:
    """Return what a bundle of this run descends from, by digests."""
    lineage = {
        "network": config.model.name,
        "checkpoint_sha256": run.digest(),
        "config_sha256": run.config_digest(),
        "train_sha256": train.digest(),
        "val_sha256": val.digest(),
        **set_digests(config.data, train, val),
        "initial_weights": _weights_name(config.model.weights),
    }
    if outliers.samples:
        lineage["outliers_sha256"] = outliers.digest()
    if config.teachers:
        lineage["teachers"] = _teachers(config.teachers)
    return lineage


def _licences(*datasets: Dataset) -> dict[str, str]:
    licences: dict[str, str] = {}
    for d in datasets:
        if d.samples:
            licences[d.name] = "; ".join(
                dict.fromkeys([*filter(None, [licences.get(d.name)]), d.licence])
            )
    return licences


def _teachers(runs: tuple[Path, ...]) -> str:
    """Return network, first weights and checkpoint of each teacher."""
    models = [(load_trained(run)[2].model, Run(run).digest()) for run in runs]
    return "; ".join(
        f"{m.name} from {_weights_name(m.weights)}, checkpoint sha256:{digest}"
        for m, digest in models
    )


def _weights_name(weights: str) -> str:
    path = Path(weights)
    return (
        f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        if path.is_file()
        else weights
    )
