"""From samples to batches of uint8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.augment import augment
from training.config import DataConfig
from vision.datasets import Dataset, Sample, open_dataset, read_image, read_label_map
from vision.errors import DatasetError
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec, preprocess
from vision.simulator.dataset import simulator_dataset


def open_training_data(config: DataConfig, seed: int, scratch: Path) -> tuple[Dataset, Dataset]:
    """Return the (train, val) sets of a configuration.

    Args:
        scratch: folder where simulator pictures are rendered to, if there is no `root`.

    Raises:
        DatasetError: the set cannot be used, or val holds a label that train lacks.
    """
    if config.root is None:
        dataset = simulator_dataset(scratch, config.simulator_images, seed)
    else:
        dataset = open_dataset(config.root, read_label_map(config.label_map) if config.label_map else None)
    train, val = dataset.select("train"), dataset.select("val")
    if config.drop_suspect:
        kept = tuple(s for s in train.samples if not s.suspect)
        train = Dataset(train.name, kept, train.licence, train.left_out)
    if unseen := val.labels() - train.labels():
        raise DatasetError(f"{dataset.name}: labels in val but not in train: {', '.join(sorted(unseen))}")
    return train, val


class Pictures:
    """Decoded pictures of a dataset, read once and kept while they fit in memory.

    Args:
        samples: what to read.
        cache_bytes: decoded pictures kept at most; beyond it they are read from disk each time.
    """

    def __init__(self, samples: tuple[Sample, ...], cache_bytes: int = 2**31) -> None:
        self._samples = samples
        self._cache: dict[int, Pixels] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Pixels]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Pixels:
        if index in self._cache:
            return self._cache[index]
        pixels = read_image(self._samples[index].path)
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._cache[index] = pixels
        return pixels


def epoch_batches(
    pictures: Pictures,
    targets_n: NDArray[np.int64],
    spec: PreprocessSpec,
    batch_size: int,
    key: tuple[int, int],
    strength: float,
) -> Iterator[tuple[Pixels, NDArray[np.int64]]]:
    """Yield one epoch of shuffled, augmented batches; equal for equal keys. A last batch of one is left out.

    Args:
        key: (seed, epoch).

    Yields:
        uint8 batch x height x width x 3 in the spec's colour order; int64 targets.
    """
    order = np.random.default_rng([*key, 0]).permutation(len(pictures))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if len(chosen) < 2:  # batch normalisation needs two
            return
        inputs = [
            preprocess(augment(pictures[int(i)], np.random.default_rng([*key, 1, int(i)]), strength), spec)
            for i in chosen
        ]
        yield np.concatenate(inputs), targets_n[chosen]
