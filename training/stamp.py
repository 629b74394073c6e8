"""What an export and a quantised file both measure and write into the manifest.

Every figure, threshold, statistic and the expected output are measured on the very graph that is
written. Does not make the graph: see training/export.py and training/quantize.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.calibrate import (
    MIN_IMAGES,
    TARGET_PRECISION,
    centroids,
    cross_fitted_figures,
    fit_policy,
)
from training.data import Images, image_counts
from training.evaluate import Outputs, Session, open_session, run_graph, score
from vision.bundle import probe_frame, read_bundle, write_bundle
from vision.datasets import Dataset
from vision.decision import DecisionPolicy, EmbeddingStats
from vision.manifest import Manifest, Precision, Probe, Tensors
from vision.preprocess import PreprocessSpec

# Another CPU rounds elsewhere: on the probe a float graph moves by 5e-6, the shipped int8 one by
# 0.023 (decision 11).
PROBE_TOLERANCE = {Precision.FP32: 0.005, Precision.INT8: 0.1}


def fit_on(
    train: Dataset,
    train_outputs: Outputs,
    val: Dataset,
    val_outputs: Outputs,
    labels: tuple[str, ...],
) -> tuple[EmbeddingStats, DecisionPolicy]:
    """Fit embedding statistics on training images, and the policy on val images (`held_out`).

    Args:
        train: training images.
        train_outputs: of the graph, for these images as the bin sees them.
        val: val images.
        val_outputs: of the graph, for these images.
        labels: of the graph.
    """
    train_targets_n = np.array([labels.index(s.label) for s in train.samples])
    stats = centroids(train_outputs.embeddings_nd, train_targets_n)
    return stats, policy_on(train, val, val_outputs, stats, labels)


def refit(
    bundle: Path,
    train: Dataset,
    val: Dataset,
    lineage: Mapping[str, str],
    licences: Mapping[str, str],
) -> Manifest:
    """Fit a bundle's policy anew on other val images, measure it on them, and write it again.

    The exact computation is measured, as it is when a bundle is quantised. Embedding statistics and
    the alarm's threshold stay, and the temperature does not fall: they need more images than a
    place may have.

    Args:
        bundle: float or int8; replaced.
        train: what the network was trained on.
        val: images of the place where the bundle will work.
        lineage: what changes in it, beside the val images.
        licences: of data that the bundle's first weights descend from.
    """
    data, source = read_bundle(bundle)
    exact = open_session(data, 2, exact=source.precision is Precision.INT8)
    outputs = run_graph(exact, source.tensors, source.preprocess, Images(val.samples, 0))
    fitted = policy_on(train, val, outputs, source.stats, source.labels, source.policy.temperature)
    kept = {k: v for k, v in source.lineage.items() if k != "val_sets_sha256"}
    counts = {**source.metrics.get("data", {}), "val": image_counts(val)}
    manifest = replace(
        source,
        policy=replace(fitted, min_hazard=source.policy.min_hazard),
        metrics={**source.metrics, "data": counts},
        lineage={**kept, **lineage, "val_sha256": val.digest()},
        data_licences={**licences, **source.data_licences},
    )
    return write_measured(bundle, data, manifest, train, val, outputs)


def policy_on(
    train: Dataset,
    val: Dataset,
    val_outputs: Outputs,
    stats: EmbeddingStats,
    labels: tuple[str, ...],
    least_temperature: float = 0.0,
) -> DecisionPolicy:
    """Fit the policy on val images (`held_out`).

    Args:
        train: training images.
        val: val images.
        val_outputs: of the graph, for these images.
        stats: of the bundle.
        labels: of the graph.
        least_temperature: see `fit_policy`.
    """
    scores_n = np.array([stats.unknown_score(e) for e in val_outputs.embeddings_nd])
    targets_n = np.array([labels.index(s.label) for s in val.samples])
    chosen = held_out(train, val)
    return fit_policy(
        val_outputs.logits_nk[chosen],
        targets_n[chosen],
        scores_n[chosen],
        labels,
        least_temperature,
    )


def held_out(train: Dataset, val: Dataset) -> NDArray[np.bool_]:
    """Return which val images show objects that training did not, bool, one for each image.

    Confidence is fitted on those, for a network is surer of what it has seen. All of val if they
    are fewer than a policy can be fitted on.
    """
    trained = {s.group for s in train.samples}
    fresh = np.array([s.group not in trained for s in val.samples])
    return fresh if fresh.sum() >= MIN_IMAGES * len(val.labels()) else np.ones_like(fresh)


def expected_output(
    session: Session, tensors: Tensors, spec: PreprocessSpec, precision: Precision
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
    """Add the val figures to a manifest and write the bundle.

    Args:
        out: file to write.
        onnx_bytes: the graph that was measured.
        manifest: without val figures.
        train: what the network was trained on.
        val: what it was measured on.
        outputs: of the graph, for the val images.

    Returns:
        the manifest as it is written.
    """
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
