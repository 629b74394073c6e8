"""A training run's folder: begin, continue, finish, and load what was trained.

It holds config.json, history.jsonl (one line an epoch) and checkpoint.pt. Files are written whole
or not at all, and read without running code from them. Does not train: see training/recipes.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from pydantic_core import PydanticSerializationError

from configs import load
from training.config import TrainConfig
from training.models import Classifier
from vision.datasets import Dataset
from vision.errors import ConfigError
from vision.files import write_atomically

CHECKPOINT_NAME = "checkpoint.pt"
CONFIG_NAME = "config.json"
HISTORY_NAME = "history.jsonl"

Row = dict[str, Any]  # of the history: figures of one epoch


class Run:
    """The folder of one run.

    Args:
        folder: it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"  # rendered ones, if the simulator is asked for any
        self.outliers = folder / "outliers"

    def checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint, or None if there is none yet.

        Raises:
            ConfigError: the file is there and cannot be read.
        """
        path = self.folder / CHECKPOINT_NAME
        if not path.is_file():
            return None
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ConfigError(
                f"{path}: not a readable checkpoint ({error}). Delete it to begin again."
            ) from error

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; a kill at any instant leaves the old one or the new one."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / CHECKPOINT_NAME, buffer.getvalue())

    def digest(self) -> str:
        """Return the sha256 of the checkpoint file, hex."""
        return hashlib.sha256((self.folder / CHECKPOINT_NAME).read_bytes()).hexdigest()

    def config_digest(self) -> str:
        """Return the sha256 of the configuration file, hex."""
        return hashlib.sha256((self.folder / CONFIG_NAME).read_bytes()).hexdigest()

    def resumable(self, key: str) -> dict[str, Any] | None:
        """Return the checkpoint to continue from, or None to begin.

        Args:
            key: from `recipe_key`.

        Raises:
            ConfigError: the folder holds a run of another configuration.
        """
        state = self.checkpoint()
        if state is not None and state["recipe_key"] != key:
            raise ConfigError(
                f"{self.folder}: holds a run of another configuration. Delete it, or name another "
                "--out."
            )
        return state

    def begin(self, document: bytes, history: list[Row]) -> None:
        """Write the configuration, and the history as the checkpoint has it.

        A kill may have come between checkpoint and history.

        Args:
            document: from `config_document`.
            history: one row for each epoch so far.
        """
        write_atomically(self.folder / CONFIG_NAME, document)
        self.write_history(history)

    def write_history(self, history: list[Row]) -> None:
        """Replace history.jsonl."""
        lines = "".join(json.dumps(row) + "\n" for row in history)
        write_atomically(self.folder / HISTORY_NAME, lines.encode())

    def history(self) -> list[Row]:
        """Return the rows of history.jsonl, one for each epoch."""
        text = (self.folder / HISTORY_NAME).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def must_be_of(self, train: Dataset, val: Dataset) -> None:
        """Compare the data with what the run was trained on.

        Fitted on images that were trained on, confidence is flattery.

        Raises:
            ConfigError: an image, label or split has changed since.
        """
        state = self.checkpoint()
        digests = state["recipe_key"].split(" ")[-3:-1] if state else []
        for name, dataset, digest in zip(("train", "val"), (train, val), digests, strict=True):
            if dataset.digest() != digest:
                raise ConfigError(
                    f"{self.folder}: was trained on other data: {dataset.name} has another {name} "
                    "split now. Put its images and splits.csv back as they were, or train again."
                )


def load_trained(
    run: Path, map_location: str = "cpu"
) -> tuple[Classifier, tuple[str, ...], TrainConfig]:
    """Return (model in evaluation mode, labels, configuration) of a finished or running run.

    Raises:
        ConfigError: the folder holds no run, or one of a version with other settings.
    """
    state = Run(run).checkpoint()
    if state is None or not (run / CONFIG_NAME).is_file():
        raise ConfigError(
            f"{run}: no training run there. Make one with 'binsight train --out {run}'."
        )
    # JSON is YAML; a key of an earlier version is reported by its name.
    config = load(TrainConfig, run / CONFIG_NAME)
    labels = tuple(state["labels"])
    model = Classifier(config.model.name, len(labels), config.model.dropout)
    model.load_state_dict(state["kept"])
    return model.to(map_location).eval(), labels, config


def config_document(config: TrainConfig) -> bytes:
    """Return a configuration as config.json holds it.

    Raises:
        ConfigError: a path in it is not UTF-8.
    """
    try:
        return config.model_dump_json(indent=2).encode()
    except PydanticSerializationError as error:
        raise ConfigError(
            "data, model, out: a path is not UTF-8, and the run's settings could not be kept"
        ) from error


def recipe_key(config: TrainConfig, *data: Dataset) -> str:
    """Return what must be equal for a run to be continued.

    The data, teachers, and every setting but where it runs.

    Args:
        config: of the run.
        data: train, val and outliers, in that order: `Run.must_be_of` reads it.
    """
    # Paths differ between machines; what lies there is known by digests.
    paths = {"root", "also", "outliers", "label_map"}
    where: Any = {
        "out": True,
        "threads": True,
        "device": True,
        "deterministic": True,
        "loader_workers": True,
        "teachers": True,
        "data": paths,
    }
    settings = config.model_dump(mode="json", exclude=where)
    weights = Path(config.model.weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else ""
    settings["model"]["weights"] = f"{weights.name} {digest}".strip()
    settings["teachers"] = [Run(run).digest() for run in config.teachers]
    return " ".join([json.dumps(settings), *(d.digest() for d in data)])
