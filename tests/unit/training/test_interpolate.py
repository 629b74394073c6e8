"""A network goes back part of the way, and its head is fitted to the features as they then are."""

import numpy as np
import pytest
import torch

from training.interpolate import fit_head, move_back
from training.models import Classifier


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_backbone_stays_at_a_share_of_its_way_and_the_head_stays(share: float) -> None:
    start = Classifier("mobilenet_v2", 3)
    tuned = Classifier("mobilenet_v2", 3)
    first = next(start.backbone.parameters()).detach().clone()
    last = next(tuned.backbone.parameters()).detach().clone()
    head = tuned.head.weight.detach().clone()
    move_back(start, tuned, share)
    found = next(tuned.backbone.parameters()).detach()
    assert torch.allclose(found, first + share * (last - first), atol=1e-6)
    assert torch.equal(tuned.head.weight, head)


@pytest.mark.parametrize("labels", [2, 3])
def test_a_fitted_head_tells_the_labels_apart_and_follows_the_weights(labels: int) -> None:
    rng = np.random.default_rng(0)
    model = Classifier("mobilenet_v2", labels)
    targets_n = np.arange(60) % labels
    centres = rng.normal(size=(labels, model.head.in_features))
    near = centres[targets_n] + 0.1 * rng.normal(size=(60, model.head.in_features))
    fit_head(model, near.astype(np.float32), targets_n, np.ones(60))
    called = model.head(torch.from_numpy(near.astype(np.float32))).argmax(1).numpy()
    assert (called == targets_n).all()
    # One place, two labels: the images that count for more decide.
    same = np.repeat(near[:1], 60, axis=0).astype(np.float32)
    fit_head(model, same, targets_n, np.where(targets_n == 1, 10.0, 0.1))
    assert int(model.head(torch.from_numpy(same[:1])).argmax()) == 1
