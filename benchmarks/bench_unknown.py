"""Ways to score "none of my labels" from logits and embedding, compared on the shipped bundle.

Known: TrashNet val. Outliers, each on its own: kinds that training showed without a label
(extra_open val), things of another place that it never saw (RealWaste's food, plants, cloth), the
simulator's items of other labels. The hardest case is all in one place that training never saw:
RealWaste's five materials against RealWaste's other things. It prints nothing where ../shared is
missing.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import INT8_BUNDLE
from training.data import Images
from training.evaluate import open_session, run_graph
from vision.bundle import read_bundle
from vision.datasets import Sample, open_dataset
from vision.metrics import auroc, fpr_at_recall
from vision.simulator.dataset import simulator_dataset

SHARED = Path("../shared/data")
OUTLIER_NAMES = ("food_organics", "vegetation", "textile_trash")
NEIGHBOURS = 10
SIMULATED = 120
Array = NDArray[np.float64]
Score = Callable[[Array, Array], float]  # of one image's logits and embedding
Outputs = tuple[Array, Array]  # the logits and embeddings of several images


def measure(bundle: Path = INT8_BUNDLE) -> Iterator[dict[str, Any]]:
    """Yield one row for each way and each set of outliers.

    A row holds the AUROC, the outliers taken for known at 95 % recall, and the milliseconds an
    image.
    """
    if not SHARED.is_dir():
        return
    data, manifest = read_bundle(bundle)
    session = open_session(data, 2)

    def run(samples: tuple[Sample, ...]) -> Outputs:
        out = run_graph(session, manifest.tensors, manifest.preprocess, Images(samples, 0))
        return out.logits_nk.astype(np.float64), out.embeddings_nd.astype(np.float64)

    trashnet = open_dataset(SHARED / "trashnet")
    train = tuple(s for s in trashnet.select("train").samples if not s.suspect)
    train_out = run(train)
    known = run(trashnet.select("val").samples)
    targets = np.array([manifest.labels.index(s.label) for s in train])
    sets = _outliers(manifest.labels)
    outliers = {name: run(samples) for name, samples in sets.items() if samples}
    materials = {name: name for name in ("cardboard", "glass", "metal", "paper", "plastic")}
    elsewhere = run(open_dataset(SHARED / "realwaste_nc", materials).samples)
    pairs = [("trashnet_val", known, name, out) for name, out in outliers.items()]
    pairs.append(
        ("realwaste_materials", elsewhere, "realwaste_outliers", outliers["realwaste_outliers"])
    )
    shipped = {
        "shipped: many centroids": lambda z, e: manifest.stats.unknown_score(e.astype(np.float32))
    }
    for name, way in {**shipped, **ways(*train_out, targets)}.items():
        started = time.perf_counter()
        for _ in range(100):
            way(known[0][0], known[1][0])
        ms = 10 * (time.perf_counter() - started)
        for where, familiar, other, out in pairs:
            ours = np.array([way(*row) for row in zip(*familiar, strict=True)])
            theirs = np.array([way(*row) for row in zip(*out, strict=True)])
            score = -np.concatenate([ours, theirs])
            is_known = np.arange(len(score)) < len(ours)
            yield {
                "way": name,
                "known": where,
                "outliers": other,
                "auroc": round(auroc(score, is_known), 4),
                "taken_for_known_at_95_recall": round(fpr_at_recall(score, is_known), 4),
                "ms": round(ms, 4),
            }


def _outliers(labels: tuple[str, ...]) -> dict[str, tuple[Sample, ...]]:
    kinds = ("organic", "textile", "e_waste", "hazardous")
    others = tuple(label for label in kinds if label not in labels)
    extra = open_dataset(SHARED / "extra_open").select("val").samples
    names = dict.fromkeys(OUTLIER_NAMES, "unknown")
    return {
        "extra_open_val": tuple(s for s in extra if s.label not in labels),
        "realwaste_outliers": open_dataset(SHARED / "realwaste_nc", names).samples,
        "simulator": simulator_dataset(Path("runs/bench-unknown"), SIMULATED, 77, others).samples,
    }


def ways(logits_nk: Array, embeddings_nd: Array, targets_n: NDArray[np.int64]) -> dict[str, Score]:
    """Return score functions of (logits, embedding), fitted on training images; high = unknown."""
    unit = embeddings_nd / np.maximum(np.linalg.norm(embeddings_nd, axis=1, keepdims=True), 1e-12)
    means = np.stack([unit[targets_n == k].mean(0) for k in range(logits_nk.shape[1])])
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    raw_means = np.stack([embeddings_nd[targets_n == k].mean(0) for k in range(logits_nk.shape[1])])
    centred = embeddings_nd - raw_means[targets_n]
    covariance = centred.T @ centred / len(centred)
    precision = np.linalg.inv(
        covariance + 1e-2 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    )
    # Source of ViM: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022.
    origin = embeddings_nd.mean(0)
    _, vectors = np.linalg.eigh(np.cov((embeddings_nd - origin).T))
    residual_space = vectors[:, : -min(256, vectors.shape[1] // 2)]
    residual_n = np.linalg.norm((embeddings_nd - origin) @ residual_space, axis=1)
    alpha = logits_nk.max(1).mean() / residual_n.mean()

    def unit_of(e: Array) -> Array:
        return np.asarray(e / max(float(np.linalg.norm(e)), 1e-12))

    def energy(z: Array, e: Array) -> float:
        return -float(np.log(np.exp(z - z.max()).sum()) + z.max())

    def centroid(z: Array, e: Array) -> float:
        return 1 - float((directions @ unit_of(e)).max())

    def softmax(z: Array, e: Array) -> float:
        return -float(1 / np.exp(z - z.max()).sum())

    def knn(z: Array, e: Array) -> float:
        return 1 - float(np.sort(unit @ unit_of(e))[-NEIGHBOURS])

    def mahalanobis(z: Array, e: Array) -> float:
        apart = raw_means - e
        return float(np.einsum("kd,de,ke->k", apart, precision, apart, optimize=True).min())

    def vim(z: Array, e: Array) -> float:
        return float(alpha * np.linalg.norm((e - origin) @ residual_space)) + energy(z, e)

    single: dict[str, Score] = {
        "max_softmax": softmax,
        "max_logit": lambda z, e: -float(z.max()),
        "energy": energy,
        "centroid_cosine": centroid,
        "knn": knn,
        "mahalanobis": mahalanobis,
        "vim": vim,
    }
    seen = [
        np.array([way(z, e) for z, e in zip(logits_nk[::4], embeddings_nd[::4], strict=True)])
        for way in (energy, centroid)
    ]
    (m0, s0), (m1, s1) = ((s.mean(), s.std()) for s in seen)
    single["energy+centroid"] = lambda z, e: (energy(z, e) - m0) / s0 + (centroid(z, e) - m1) / s1
    return single
