"""Move a fine-tuned network part of the way back to its start, and fit its head to both places.

Fine-tuning on a few images of a place moves features that other places need. Half-way weights keep
most of what was learnt and lose little of what was known; the head, linear and cheap, is then
fitted to the features as they are. What it buys: docs/adaptation.md. Source of the half-way
weights: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.config import TrainConfig
from training.data import Images, set_name
from training.device import no_denormals
from training.evaluate import open_session, run_graph
from training.export import TENSORS, to_onnx
from training.models import Classifier
from training.progress import on_terminal
from training.quantize import Scheme, quantized_graph
from training.runs import Run, load_trained
from training.warmstart import first_weights
from vision.datasets import Dataset
from vision.preprocess import PreprocessSpec

# How far the backbone stays from its start, as a share of the way that fine-tuning went.
SHARE = 0.4
# Inverse strength of the head's regularisation, on features with a common scale.
HEAD_C = 0.03
MAX_ITERATIONS = 1000
# What the place counts for when the head is fitted; the rehearsal has the rest.
HEAD_OF_SITE = 0.35
# Key of a checkpoint whose network has been moved back.
MOVED_BACK = "moved_back"


@no_denormals()
def move_back(start: Classifier, tuned: Classifier, share: float = SHARE) -> None:
    """Set the backbone of `tuned` to a point on the straight way from `start` to it.

    Args:
        start: of the same network.
        tuned: changed in place; its head stays.
        share: 0 is the start, 1 leaves it as it is.
    """
    own = tuned.backbone.state_dict()
    first = start.backbone.state_dict()
    between = {
        name: torch.lerp(first[name], value, share) if value.is_floating_point() else value
        for name, value in own.items()
    }
    tuned.backbone.load_state_dict(between)


def between_the_places(config: TrainConfig, train: Dataset) -> None:
    """Move a trained run part of the way back, and fit its head to place and rehearsal.

    The head is fitted to what the float and the int8 form of the network make of the images, for
    it serves both: fitted to the float form alone it lost 13 points on a new label in int8.
    Once: a stopped adaptation that goes on finds it done.

    Args:
        config: of the adaptation; its run is trained to the end.
        train: training images of the place and of the rehearsal.
    """
    run = Run(config.out)
    state = run.checkpoint()
    if state is None or MOVED_BACK in state:
        return
    images = Images(train.samples)
    tuned, labels, _ = load_trained(config.out)
    move_back(first_weights(config.model, labels, images, len(train.samples)), tuned, SHARE)
    targets_n = np.array([labels.index(s.label) for s in train.samples])
    of_site = np.array([train.set_of(s) for s in train.samples]) == set_name(
        config.data.root or Path()
    )
    share = np.where(of_site, HEAD_OF_SITE, 1 - HEAD_OF_SITE)
    weights_n = share / np.where(of_site, of_site.sum(), (~of_site).sum())
    found = _embeddings_of_both_forms(tuned, config.model.bundle_preprocess(), train)
    forms = len(found) // len(targets_n)
    fit_head(tuned, found, np.tile(targets_n, forms), np.tile(weights_n / weights_n.mean(), forms))
    run.save({**state, "kept": tuned.state_dict(), MOVED_BACK: SHARE})


def _embeddings_of_both_forms(
    model: Classifier, spec: PreprocessSpec, train: Dataset
) -> NDArray[np.float32]:
    """Return the input of the head for each image by the float graph, then by the int8 one."""
    graph = to_onnx(model, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        path.write_bytes(graph)
        rounded = quantized_graph(path, TENSORS, spec, train, Scheme())
    images = Images(train.samples, 0)
    progress = on_terminal("fitting the head")
    found = [
        run_graph(open_session(form, 2), TENSORS, spec, images, progress).embeddings_nd
        for form in (graph, rounded)
    ]
    return np.concatenate(found)


def fit_head(
    model: Classifier,
    embeddings_nd: NDArray[np.float32],
    targets_n: NDArray[np.int64],
    weights_n: NDArray[np.float64],
) -> None:
    """Set the head of a model to a logistic regression on its own embeddings.

    Args:
        model: changed in place.
        embeddings_nd: images x size.
        targets_n: each label of the head is there.
        weights_n: what each image counts for; 1 on average.
    """
    mean = embeddings_nd.mean(0)
    # One scale for all features: one that hardly varies would get a large weight, and int8's
    # rounding with it.
    deviation = float(np.sqrt(np.square(embeddings_nd - mean).mean())) + 1e-6
    regression = LogisticRegression(C=HEAD_C, max_iter=MAX_ITERATIONS)
    regression.fit((embeddings_nd - mean) / deviation, targets_n, sample_weight=weights_n)
    rows = regression.coef_
    bias = regression.intercept_
    if len(rows) == 1:  # of two labels it fits the difference
        rows = np.concatenate([-rows, rows]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    rows = rows / deviation
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(rows))
        model.head.bias.copy_(torch.from_numpy(bias - rows @ mean))
