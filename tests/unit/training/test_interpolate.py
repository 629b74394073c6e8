"""A network goes back part of the way, and its head is fitted to the features as they then are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.interpolate import _embeddings_of_both_forms, fit_head, move_back
from training.models import Classifier
from vision.datasets import open_dataset
from vision.preprocess import Fit, PreprocessSpec


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


def test_the_head_sees_what_the_float_and_the_int8_form_make_of_each_image(
    image_folder: Path,
) -> None:
    torch.manual_seed(0)
    train = open_dataset(image_folder)
    spec = PreprocessSpec(32, 32, Fit.STRETCH, "rgb")
    found = _embeddings_of_both_forms(Classifier("mobilenet_v2", 2).eval(), spec, train)
    count = len(train.samples)
    assert found.shape == (2 * count, 1280)
    assert not np.array_equal(found[:count], found[count:])
    assert np.corrcoef(found[:count].ravel(), found[count:].ravel())[0, 1] > 0.5
