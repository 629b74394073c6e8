"""What each ingredient of the recipe is worth: the recipe without it.

It is measured in grouped cross-validation and in another place. The recipe is a small version of
that of configs/trashnet.yaml (smaller images, few epochs), so the accuracies are lower than the
shipped bundle's; what counts is the difference from the first row. It takes about three quarters of
an hour on two cores; what was trained when it was stopped is kept in runs/ablation and not trained
again. It prints nothing where ../shared is missing.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from configs import load, with_values
from training.config import TrainConfig
from training.data import prepare
from training.models import predict_logits
from training.recipes.finetune import finetune
from training.runs import load_trained
from vision.datasets import Sample, open_dataset
from vision.decision import softmax
from vision.metrics import auroc, group_bootstrap

SHARED = Path("../shared/data")
OUT = Path("runs/ablation")
FOLDS = 3
USED = 1
SMALL = {
    "model.size_px": 128,
    "recipe.epochs": 6,
    "recipe.freeze_backbone_epochs": 1,
    "recipe.mixup_off_epochs": 1,
    "recipe.ema_decay": 0.99,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no items on other floors": {"recipe.background_swap": 0.0},
    "no things of no label": {"recipe.outlier_share": 0.0},
    "nine labels": {
        "data.also": [str(SHARED / "extra_open")],
        "data.outliers": [],
        "data.outliers_simulated": 0,
    },
    "no mixup": {"recipe.mixup_alpha": 0.0},
    "CutMix in 30 % of batches": {"recipe.cutmix": 0.3},
    "one learning rate for all stages": {"recipe.layer_decay": 1.0},
    "no frozen stages": {"recipe.freeze_stages": 0},
    "the whole network from the start": {"recipe.freeze_backbone_epochs": 0},
    "labels weighed by frequency": {"recipe.class_weighted": True},
    "no label smoothing": {"recipe.label_smoothing": 0.0},
    "no moving average": {"recipe.ema_decay": 0.0},
    "no augmentation": {"recipe.augment": 0.0},
    "96 px": {"model.size_px": 96},
    "160 px": {"model.size_px": 160},
}
MATERIALS = ("cardboard", "glass", "metal", "paper", "plastic")


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each variant, as soon as it is measured."""
    if not SHARED.is_dir():
        return
    base = with_values(load(TrainConfig, Path("configs/teachers/mobilenet.yaml")), SMALL)
    folds = _folds()
    groups = [s.group for fold in folds for s in open_dataset(fold).select("val").samples]
    first: Any = None
    for name, values in VARIANTS.items():
        right = []
        elsewhere = []
        doubt = []
        for number, fold in enumerate(folds):
            out = OUT / f"{name.replace(' ', '-').replace('%', '')}-{number}"
            config = with_values(base, {**values, "data.root": str(fold), "out": str(out)})
            finetune(config)
            known, place, outliers = _outputs(config)
            right.append(known[0].argmax(1) == known[1])
            elsewhere.append(float((place[0].argmax(1) == place[1]).mean()))
            if len(outliers):
                certainty = np.concatenate([softmax(known[0]).max(1), softmax(outliers).max(1)])
                doubt.append(auroc(certainty, np.arange(len(certainty)) < len(known[1])))
        right_n = np.concatenate(right).astype(float)
        first = right_n if first is None else first
        gap = right_n - first
        low, high = group_bootstrap(groups, lambda some, gap=gap: float(gap[some].mean()))  # type: ignore[misc]
        yield {
            "variant": name,
            "accuracy": round(float(right_n.mean()), 4),
            "change": round(float(gap.mean()), 4),
            "change_95": [round(low, 4), round(high, 4)],
            "realwaste": round(float(np.mean(elsewhere)), 4),
            "unknown_auroc_by_softmax": round(float(np.mean(doubt)), 4) if doubt else None,
            "folds": USED,
            "images": len(right_n),
        }


def _folds() -> list[Path]:
    """Write an index for each fold; no group is on both sides."""
    samples = [s for s in open_dataset(SHARED / "trashnet").samples if not s.suspect]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    OUT.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (_, held) in enumerate(
        splitter.split(samples, [s.label for s in samples], [s.group for s in samples])
    ):
        path = OUT / f"fold{number}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split", "group"))
            for i, s in enumerate(samples):
                split = "val" if i in set(held.tolist()) else "train"
                writer.writerow((os.path.relpath(s.path, OUT), s.label, split, s.group))
        paths.append(path)
    return paths[:USED]


def _outputs(config: TrainConfig) -> tuple[Any, Any, Any]:
    model, labels, _ = load_trained(config.out)
    spec = config.model.preprocess()
    cpu = torch.device("cpu")

    def run(samples: tuple[Sample, ...]) -> NDArray[np.float32]:
        return predict_logits(model, prepare(samples, spec), cpu)

    val = open_dataset(config.data.root or Path()).select("val").samples
    place = open_dataset(SHARED / "realwaste_nc", {name: name for name in MATERIALS}).samples
    outliers = tuple(
        s
        for s in open_dataset(SHARED / "extra_open").select("val").samples
        if s.label not in labels
    )
    targets = [np.array([labels.index(s.label) for s in some]) for some in (val, place)]
    return (
        (run(val), targets[0]),
        (run(place), targets[1]),
        run(outliers) if outliers else np.empty((0, len(labels))),
    )
