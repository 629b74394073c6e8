"""Whether a bundle can learn a new place from its unlabelled items alone: two ways, tried.

Batch-norm statistics of the place in the place of those of training (Schneider et al., NeurIPS
2020), whole and in part; and the place's mix of labels, estimated by EM and put into the softmax
(Saerens, Latinne, Decaestecker, Neural Computation 14, 2002). Measured on another place, on the
place of training, where nothing should change, and on streams of both in which every second item is
of one label, as at a bottle bank. It prints nothing where ../shared is missing.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.config import ModelConfig
from training.data import Images, prepare
from training.models import Classifier, predict_logits
from training.warmstart import first_weights
from vision.bundle import read_manifest
from vision.datasets import Dataset, open_dataset
from vision.decision import softmax

SHARED = Path("../shared/data")
BUNDLE = Path("edge_runtime/bundles/float.onnx")
MATERIALS = ("cardboard", "glass", "metal", "paper", "plastic")
SHARES = (0.1, 0.3, 1.0)
EM_STEPS = 100
BATCH = 32
# Every second image of a place: each passes the network five times.
EVERY = 2


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for each stream of items."""
    if not SHARED.is_dir():
        return
    manifest = read_manifest(BUNDLE)
    whole = open_dataset(SHARED / "trashnet")
    train = whole.select("train").samples
    model_config = ModelConfig(
        name=manifest.lineage.get("network", "timm:tf_efficientnet_lite2"),
        weights=str(BUNDLE),
        size_px=manifest.preprocess.width_px,
    )
    model = first_weights(model_config, manifest.labels, Images(train), len(train)).eval()
    spec = model_config.preprocess()
    prior_k = np.array([sum(s.label == label for s in train) for label in manifest.labels])
    for name, dataset in _places(whole).items():
        x_nhwc = prepare(dataset.samples, spec)
        truth_n = np.array([manifest.labels.index(s.label) for s in dataset.samples])
        logits = {"as it is": predict_logits(model, x_nhwc, torch.device("cpu"))}
        of_place = _with_statistics(model, x_nhwc)
        for share in SHARES:
            blended = _blend(model, of_place, share)
            logits[f"{share:.0%} of the place's statistics"] = predict_logits(
                blended, x_nhwc, torch.device("cpu")
            )
        for stream, chosen in _streams(truth_n, manifest.labels).items():
            row = {
                k: float((z[chosen].argmax(1) == truth_n[chosen]).mean()) for k, z in logits.items()
            }
            p_nk = softmax(logits["as it is"][chosen], manifest.policy.temperature)
            shifted = _em(p_nk, prior_k / prior_k.sum())
            row["mix by EM"] = float((shifted.argmax(1) == truth_n[chosen]).mean())
            rounded = {k: round(v, 4) for k, v in row.items()}
            yield {"place": name, "stream": stream, "images": len(chosen), **rounded}


def _places(trashnet: Dataset) -> dict[str, Dataset]:
    elsewhere = open_dataset(SHARED / "realwaste_nc", {name: name for name in MATERIALS})
    places = {"TrashNet val": trashnet.select("val"), "RealWaste": elsewhere}
    return {name: replace(d, samples=d.samples[::EVERY]) for name, d in places.items()}


def _streams(truth_n: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """Return index arrays: every image once, and for each material half of the stream of it."""
    streams = {"all": np.arange(len(truth_n))}
    rng = np.random.default_rng(0)
    for label in ("glass", "plastic"):
        own = np.flatnonzero(truth_n == labels.index(label))
        others = np.flatnonzero(truth_n != labels.index(label))
        some = rng.choice(others, min(len(own), len(others)), replace=False)
        streams[f"half {label}"] = np.concatenate([own, some])
    return streams


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def _with_statistics(model: Classifier, x_nhwc: NDArray[np.uint8]) -> Classifier:
    """Return a copy whose normalisation has the mean statistics of these images."""
    copy = deepcopy(model)
    for norm in _norms(copy):
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    order = np.random.default_rng(0).permutation(len(x_nhwc))
    with torch.no_grad():
        for some in np.array_split(order, max(1, len(order) // BATCH)):
            copy(torch.from_numpy(x_nhwc[some]))
    return copy.eval()


def _blend(model: Classifier, of_place: Classifier, share: float) -> Classifier:
    blended = deepcopy(model)
    for own, other in zip(_norms(blended), _norms(of_place), strict=True):
        for name in ("running_mean", "running_var"):
            getattr(own, name).lerp_(getattr(other, name), share)
    return blended


def _em(p_nk: NDArray[np.float64], prior_k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities under the mix of labels that they themselves speak for."""
    mix_k = prior_k
    for _ in range(EM_STEPS):
        q_nk = p_nk * (mix_k / prior_k)
        q_nk /= q_nk.sum(1, keepdims=True)
        mix_k = q_nk.mean(0)
    return q_nk
