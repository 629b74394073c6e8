"""The images that a configuration names: sets, their splits, outliers; decoded images.

Does not make batches of them: see training/batches.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from vision.datasets import (
    UNKNOWN,
    Dataset,
    Sample,
    merge,
    open_dataset,
    read_image,
    read_label_map,
)
from vision.errors import DatasetError, ImageError
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec, preprocess
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.dataset import simulator_dataset

log = logging.getLogger(__name__)

# With fewer training images a label is hardly learnt.
FEW = 10


def open_training_data(config: DataConfig, seed: int, scratch: Path) -> tuple[Dataset, Dataset]:
    """Return the (train, val) sets of a configuration.

    Args:
        config: where the images are.
        seed: of the simulator's images.
        scratch: folder where simulator images are rendered to, if there is no `root`.

    Raises:
        DatasetError: the set cannot be used, or val holds a label that train lacks.
    """
    if config.root is None:
        dataset = simulator_dataset(scratch, config.simulator_images, seed)
    else:
        label_map = read_label_map(config.label_map) if config.label_map else None
        dataset = merge([open_dataset(root, label_map) for root in (config.root, *config.also)])
    dataset = replace(dataset, samples=tuple(s for s in dataset.samples if s.label != UNKNOWN))
    train = dataset.select("train")
    val = dataset.select("val")
    if config.drop_suspect:
        kept = tuple(s for s in train.samples if not s.suspect)
        train = Dataset(train.name, kept, train.licence, train.left_out)
    log.info(
        "training on %s", ", ".join(f"{name} {n}" for name, n in sorted(train.counts().items()))
    )
    if len(train.labels()) < 2:
        raise DatasetError(
            f"{dataset.name}: training knows one label, {', '.join(train.labels())}; it needs two "
            "or more"
        )
    if unseen := val.labels() - train.labels():
        raise DatasetError(
            f"{dataset.name}: labels in val but not in train: {', '.join(sorted(unseen))}"
        )
    _warn_of_what_flatters(config, dataset, train, val)
    return train, val


def set_digests(config: DataConfig, train: Dataset, val: Dataset) -> dict[str, str]:
    """Return lineage by which each of several merged sets is known again when it comes alone.

    Of one set there is none.

    Args:
        config: what `train` and `val` were opened by.
        train: training samples.
        val: val samples.
    """
    if not config.also:
        return {}
    digests = {}
    for split, merged in (("train", train), ("val", val)):
        alone: dict[str, list[Sample]] = {}
        for s in merged.samples:
            name, _, rest = s.name.partition("/")
            alone.setdefault(name, []).append(replace(s, name=rest))
        digests[f"{split}_sets_sha256"] = " ".join(
            Dataset(n, tuple(some)).digest() for n, some in alone.items()
        )
    return digests


def set_name(root: Path) -> str:
    """Return the name of the set that `open_dataset` reads from a folder or an index."""
    return (root.parent if root.is_file() else root).resolve().name


def image_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the number of images by set and label, of one set or of several merged ones."""
    counts: dict[str, dict[str, int]] = {}
    for s in dataset.samples:
        by_label = counts.setdefault(dataset.set_of(s), dict.fromkeys(sorted(dataset.labels()), 0))
        by_label[s.label] += 1
    return counts


def open_outliers(
    config: DataConfig, labels: Collection[str], split: str, seed: int, scratch: Path
) -> Dataset:
    """Return the images of one split that show none of `labels`; the set may be empty.

    Args:
        config: where the images are.
        labels: of the network.
        split: "train" or "val".
        seed: of the simulator's images.
        scratch: folder where simulator images are rendered to.

    Raises:
        DatasetError: a set has no such image.
    """
    label_map = read_label_map(config.label_map) if config.label_map else None
    sets = [open_dataset(root, label_map, unmapped=UNKNOWN) for root in config.outliers]
    for root, outliers in zip(config.outliers, sets, strict=True):
        if not any(s.split == split and s.label not in labels for s in outliers.samples):
            raise DatasetError(
                f"data.outliers: {root}: no image of another label in its split {split!r}"
            )
    others = tuple(label for label in CATALOGUE if label not in labels)
    if config.outliers_simulated and others:
        sets.append(simulator_dataset(scratch, config.outliers_simulated, seed, others))
    if not sets:
        return Dataset("none", ())
    merged = merge(sets)
    return replace(
        merged,
        samples=tuple(s for s in merged.samples if s.split == split and s.label not in labels),
    )


def repeats(config: DataConfig, samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Return how often an epoch shows each of the training samples.

    1 but for the sets named in `data.repeat`.

    Raises:
        DatasetError: a name there is no set's.
    """
    alone = "" if config.also else set_name(config.root or Path())
    sets = [alone or s.name.split("/")[0] for s in samples]
    if unknown := set(config.repeat) - set(sets):
        names = ", ".join(sorted(set(sets)))
        raise DatasetError(
            f"data.repeat: no set is named {', '.join(sorted(unknown))}; sets: {names}"
        )
    return np.array([config.repeat.get(name, 1) for name in sets], dtype=np.float64)


class Images:
    """Decoded images of a dataset, read once and kept while they fit in memory.

    Args:
        samples: what to read.
        cache_bytes: decoded images kept at most; beyond it they are read from disk each time.
    """

    def __init__(self, samples: tuple[Sample, ...], cache_bytes: int = 2**31) -> None:
        self._samples = samples
        self._cache: dict[int, Pixels] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Pixels]:
        return (self[index] for index in range(len(self)))

    def read_all(self) -> None:
        """Read each image once: an error comes before an hour of training, not after it.

        Raises:
            DatasetError: some cannot be read; the message names them.
        """

        def problem(index: int) -> str:
            try:
                self[index]
            except ImageError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            bad = list(filter(None, pool.map(problem, range(len(self)))))
        if bad:
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DatasetError(f"{len(bad)} images cannot be read: {'; '.join(bad[:5])}{more}")

    def __getitem__(self, index: int) -> Pixels:
        if index in self._cache:
            return self._cache[index]
        pixels = read_image(self._samples[index].path)
        if pixels.nbytes <= self._room:  # two threads at once may overdraw it by an image
            self._room -= pixels.nbytes
            self._cache[index] = pixels
        return pixels


def prepare(samples: tuple[Sample, ...], spec: PreprocessSpec) -> Pixels:
    """Return images as network input: uint8, n x height x width x 3.

    Args:
        samples: what to read.
        spec: of the network.

    Raises:
        DatasetError: some cannot be read; the message names them.
    """
    images = Images(samples, 0)
    images.read_all()
    return np.concatenate([preprocess(pixels, spec) for pixels in images])


def _warn_of_what_flatters(
    config: DataConfig, dataset: Dataset, train: Dataset, val: Dataset
) -> None:
    """Log what makes a figure on val say less than it seems to."""
    if few := sorted(
        name for name, n in train.counts().items() if n < FEW or not val.counts()[name]
    ):
        log.warning(
            "%s: %s: under %d training images, or none in val: what is measured on them says "
            "little",
            dataset.name,
            ", ".join(few),
            FEW,
        )
    if dataset.left_out:
        log.warning(
            "%s: left out: %s; names in the data become labels by --set data.label_map=...",
            dataset.name,
            ", ".join(f"{name} ({n})" for name, n in dataset.left_out),
        )
    if both := {s.group for s in train.samples} & {s.group for s in val.samples}:
        log.warning(
            "%s: %d groups are in train and val; what is fitted on val takes only images of the "
            "others",
            dataset.name,
            len(both),
        )
    if val.drawn and config.root is not None:
        log.warning(
            "%s: names no val part, so one was drawn image by image: shots of one object may be "
            "on both sides, and "
            "then all that is measured on val flatters. Group them first: binsight data split "
            "--data %s",
            dataset.name,
            config.root,
        )
