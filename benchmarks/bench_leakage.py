"""How much near-duplicates inflate figures on TrashNet.

Cross-validation runs with and without regard to groups. The network is frozen (MobileNetV2,
ImageNet weights), so every difference is the split's. The same images are scored twice: once with
their near-duplicates spread over all folds, as nearly all published splits do, once with each group
in one fold. The interval comes from resampling groups. It prints nothing where ../shared is
missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data import Images
from training.models import build
from vision.datasets import Sample, open_dataset
from vision.metrics import group_bootstrap
from vision.preprocess import Fit, PreprocessSpec, preprocess

SHARED = Path("../shared")
FOLDS = 5
REPEATS = 5


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each classifier: accuracy ungrouped, grouped, and the difference.

    The difference comes with its 95 % interval.
    """
    if not SHARED.is_dir():
        return
    samples = tuple(s for s in open_dataset(SHARED / "data/trashnet").samples if not s.suspect)
    x_nd = _features(samples)
    y_n = np.array([s.label for s in samples])
    groups = np.array([s.group for s in samples])
    for name, model in {
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.003, max_iter=300)
        ),
        "nearest neighbour": make_pipeline(
            StandardScaler(), KNeighborsClassifier(1, metric="cosine")
        ),
    }.items():
        right = {"ungrouped": np.zeros(len(y_n)), "grouped": np.zeros(len(y_n))}
        for seed in range(REPEATS):
            for way, folds in {
                "ungrouped": StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
                "grouped": StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
            }.items():
                for train, test in folds.split(x_nd, y_n, groups):
                    right[way][test] += (
                        model.fit(x_nd[train], y_n[train]).predict(x_nd[test]) == y_n[test]
                    ) / REPEATS
        gap = right["ungrouped"] - right["grouped"]
        low, high = group_bootstrap(groups.tolist(), lambda some, gap=gap: float(gap[some].mean()))  # type: ignore[misc]
        _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        shared = sizes[index] > 1
        yield {
            "classifier": name,
            "images": len(y_n),
            "with_near_duplicates": int(shared.sum()),
            "ungrouped": round(float(right["ungrouped"].mean()), 4),
            "grouped": round(float(right["grouped"].mean()), 4),
            "inflation": round(float(gap.mean()), 4),
            "inflation_95": [round(low, 4), round(high, 4)],
            "inflation_on_images_with_near_duplicates": round(float(gap[shared].mean()), 4),
        }


def _features(samples: tuple[Sample, ...]) -> NDArray[np.float32]:
    model = build(
        "mobilenet_v2", 6, 0.0, str(SHARED / "weights/mobilenet_v2-imagenet.safetensors")
    ).eval()
    spec = PreprocessSpec(224, 224, Fit.STRETCH, "rgb")
    images = Images(samples, 0)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            some = [preprocess(images[i], spec) for i in range(start, min(start + 32, len(images)))]
            rows.append(model(torch.from_numpy(np.concatenate(some)))[1].numpy())
    return np.concatenate(rows)
