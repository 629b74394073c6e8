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
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import InferenceSession

from training import checkpoint
from training.calibrate import (
    MIN_IMAGES,
    TARGET_PRECISION,
    centroids,
    cross_fitted_figures,
    fit_policy,
)
from training.data import Images, open_outliers, open_training_data, set_digests
from training.evaluate import Outputs, Progress, open_session, run_graph, score
from training.models import Classifier
from training.recipes.finetune import load_trained, no_denormals
from vision.bundle import probe_frame, write_bundle
from vision.datasets import Dataset
from vision.decision import DecisionPolicy, EmbeddingStats
from vision.errors import BundleError
from vision.manifest import Manifest, Precision, Probe, Tensors
from vision.preprocess import PreprocessSpec, preprocess
from vision.taxonomy import MATERIALS_1

OPSET = 20
# Smaller tensors, biases and scales, stay as they are: nothing is to be won by them.
HALF_FROM_VALUES = 4096
TENSORS = Tensors("pixels", "logits", "embedding")
MAX_LOGIT_DIFFERENCE = 1e-3
# Another CPU rounds elsewhere: on the probe a float graph moves by 5e-6, the shipped int8 one by
# 0.023 (decision 11).
PROBE_TOLERANCE = {Precision.FP32: 0.005, Precision.INT8: 0.1}
# Weights are stored in 16 bits and computed with in 32: half the file, at the cost of the last
# digits of a logit.
MAX_HALF_DIFFERENCE = 0.1


@no_denormals()
def export(run: Path, out: Path, threads: int = 2, progress: Progress = iter) -> Manifest:
    """Export a run's kept weights, compare them with torch on every val image, fit the policy, write the bundle.

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
    spec = replace(config.model.preprocess(), colour_order="bgr")
    train, val = open_training_data(config.data, config.seed, run / "images")
    checkpoint.must_be_of(run, train, val)
    outliers = open_outliers(config.data, labels, "train", config.seed, run / "outliers")
    whole = to_onnx(model, spec)
    full = run_graph(open_session(whole, threads), TENSORS, spec, Images(val.samples, 0), progress)
    difference = compare_with_torch(model, spec, Images(val.samples, 0), full)
    onnx_bytes = with_half_weights(whole)
    session = open_session(onnx_bytes, threads)
    outputs = run_graph(session, TENSORS, spec, Images(val.samples, 0), progress)
    if (moved := float(np.abs(outputs.logits_nk - full.logits_nk).max())) > MAX_HALF_DIFFERENCE:
        raise BundleError(
            f"{run}: weights of 16 bits move a logit by {moved:.2g} ({MAX_HALF_DIFFERENCE} "
            "allowed): they are too "
            "large or too small for them, which a training that went well does not give"
        )
    stats, policy = fit_on(session, TENSORS, spec, train, val, outputs, labels, progress)
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
        metrics={"torch_logit_difference": difference, "half_weights_logit_difference": moved},
        lineage={
            "checkpoint_sha256": checkpoint.digest(run),
            "config_sha256": hashlib.sha256((run / "config.json").read_bytes()).hexdigest(),
            "train_sha256": train.digest(),
            "val_sha256": val.digest(),
            **set_digests(config.data, train, val),
            "initial_weights": _weights_name(config.model.weights),
            **({"outliers_sha256": outliers.digest()} if outliers.samples else {}),
            **({"teachers": _teachers(config.teachers)} if config.teachers else {}),
        },
        data_licences=_licences(train, outliers)
        | ({"note": config.data.note} if config.data.note else {}),
    )
    return write_measured(out, onnx_bytes, manifest, train, val, outputs)


def fit_on(
    session: InferenceSession,
    tensors: Tensors,
    spec: PreprocessSpec,
    train: Dataset,
    val: Dataset,
    val_outputs: Outputs,
    labels: tuple[str, ...],
    progress: Progress = iter,
) -> tuple[EmbeddingStats, DecisionPolicy]:
    """Fit embedding statistics on training images as the bin sees them, the policy on val images (`held_out`)."""
    train_outputs = run_graph(session, tensors, spec, Images(train.samples, 0), progress)
    stats = centroids(
        train_outputs.embeddings_nd, np.array([labels.index(s.label) for s in train.samples])
    )
    scores = np.array([stats.unknown_score(e) for e in val_outputs.embeddings_nd])
    targets = np.array([labels.index(s.label) for s in val.samples])
    fresh = held_out(train, val)
    return stats, fit_policy(val_outputs.logits_nk[fresh], targets[fresh], scores[fresh], labels)


def held_out(train: Dataset, val: Dataset) -> NDArray[np.bool_]:
    """Return which val images show objects that training did not: confidence is fitted on those, for a network is
    surer of what it has seen. All of val if they are fewer than a policy can be fitted on.
    """
    trained = {s.group for s in train.samples}
    fresh = np.array([s.group not in trained for s in val.samples])
    return fresh if fresh.sum() >= MIN_IMAGES * len(val.labels()) else np.ones_like(fresh)


def expected_output(
    session: InferenceSession, tensors: Tensors, spec: PreprocessSpec, precision: Precision
) -> Probe:
    """Return what the graph answers to `probe_frame()`."""
    answer = run_graph(session, tensors, spec, [probe_frame()])
    logits, embedding = (
        tuple(round(float(v), 5) for v in row[0])
        for row in (answer.logits_nk, answer.embeddings_nd)
    )
    return Probe(logits, PROBE_TOLERANCE[precision], embedding)


def write_measured(
    out: Path, onnx_bytes: bytes, manifest: Manifest, train: Dataset, val: Dataset, outputs: Outputs
) -> Manifest:
    """Add the val figures to a manifest and write the bundle."""
    _, figures, _ = score(manifest, val, outputs, {s.group for s in train.samples})
    del figures["ms_per_image"]  # a time belongs to a machine, not to a model
    # What the policy does on the images it was fitted on would flatter it, and so would those of
    # trained objects.
    fresh = held_out(train, val)
    samples = [s for s, is_fresh in zip(val.samples, fresh, strict=True) if is_fresh]
    targets = np.array([manifest.labels.index(s.label) for s in samples])
    scores = np.array([manifest.stats.unknown_score(e) for e in outputs.embeddings_nd[fresh]])
    figures |= cross_fitted_figures(
        outputs.logits_nk[fresh], targets, scores, [s.group for s in samples], manifest.labels
    )
    figures["policy_images"] = len(samples)
    figures["objects_known"] = not val.drawn
    del figures["policy_fitted_on_these_images"]
    figures["target_precision"] = TARGET_PRECISION
    return write_bundle(
        out, onnx_bytes, replace(manifest, metrics={**manifest.metrics, "val": figures})
    )


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
    for node in (
        proto.graph.node
    ):  # torch notes the source line of every node, with its path on this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    return bytes(proto.SerializeToString())


def with_half_weights(onnx_bytes: bytes) -> bytes:
    """Return the graph with its large weights stored as float16, and a Cast, which onnxruntime folds, to float32."""
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
    models = [(load_trained(run)[2].model, checkpoint.digest(run)) for run in runs]
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
