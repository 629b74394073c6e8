"""Move a fine-tuned network part of the way back to its start, and fit its head to both places.

Fine-tuning on a few images of a place moves features that other places need. Half-way weights keep
most of what was learnt and lose little of what was known; the head, linear and cheap, is then
fitted to the features as they are. What it buys: docs/adaptation.md. Source of the half-way
weights: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.data import Images
from training.device import no_denormals
from training.models import VALIDATION_BATCH, Classifier
from training.progress import Progress
from vision.datasets import Sample
from vision.preprocess import PreprocessSpec, preprocess

# How far the backbone stays from its start, as a share of the way that fine-tuning went.
SHARE = 0.4
# Inverse strength of the head's regularisation, on features with a common scale.
HEAD_C = 0.03
MAX_ITERATIONS = 1000


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


@no_denormals()
def embeddings(
    model: Classifier, samples: Sequence[Sample], spec: PreprocessSpec, progress: Progress = iter
) -> NDArray[np.float32]:
    """Return the input of the head for each image, float32, images x size.

    Args:
        model: on the CPU.
        samples: images.
        spec: of the network.
        progress: wraps the images, for a progress bar.
    """
    model.eval()
    rows: list[torch.Tensor] = []
    waiting = []
    with torch.inference_mode():
        for pixels in progress(Images(tuple(samples), 0)):
            waiting.append(preprocess(pixels, spec))
            if len(waiting) == VALIDATION_BATCH:
                rows.append(model(torch.from_numpy(np.concatenate(waiting)))[1])
                waiting = []
        if waiting:
            rows.append(model(torch.from_numpy(np.concatenate(waiting)))[1])
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float32)


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
