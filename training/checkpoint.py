"""Checkpoints of a training run.

Written whole or not at all, read without running code from them.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig
from vision.datasets import Dataset
from vision.errors import ConfigError
from vision.files import write_atomically

CHECKPOINT_NAME = "checkpoint.pt"


def save(run: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint; a kill at any instant leaves the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(run / CHECKPOINT_NAME, buffer.getvalue())


def load(run: Path) -> dict[str, Any] | None:
    """Return the run's checkpoint, or None if there is none yet.

    Raises:
        ConfigError: the file is there and cannot be read.
    """
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ConfigError(
            f"{path}: not a readable checkpoint ({error}). Delete it to begin again."
        ) from error


def digest(run: Path) -> str:
    """Return the sha256 of the checkpoint file, hex."""
    return hashlib.sha256((run / CHECKPOINT_NAME).read_bytes()).hexdigest()


def must_be_of(run: Path, train: Dataset, val: Dataset) -> None:
    """Compare the data with what a run was trained on.

    Fitted on images that were trained on, confidence is flattery.

    Raises:
        ConfigError: an image, label or split has changed since.
    """
    state = load(run)
    digests = state["recipe_key"].split(" ")[-3:-1] if state else []
    for name, dataset, digest in zip(("train", "val"), (train, val), digests, strict=True):
        if dataset.digest() != digest:
            raise ConfigError(
                f"{run}: was trained on other data: {dataset.name} has another {name} split now. "
                "Put its images and splits.csv back as they were, or train again."
            )


def recipe_key(config: TrainConfig, *data: Dataset) -> str:
    """Return what must be equal for a run to be continued.

    The data, teachers, and every setting but where it runs.
    """
    # Paths differ between machines; what lies there is known by digests.
    paths = {"root", "also", "outliers", "label_map"}
    where: Any = {
        "out": True,
        "threads": True,
        "device": True,
        "loader_workers": True,
        "teachers": True,
        "data": paths,
    }
    settings = config.model_dump(mode="json", exclude=where)
    settings["model"]["weights"] = Path(settings["model"]["weights"]).name
    settings["teachers"] = [digest(run) for run in config.teachers]
    return " ".join([json.dumps(settings), *(d.digest() for d in data)])
