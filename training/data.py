"""From samples to batches of uint8 pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.augment import augment
from training.config import DataConfig
from training.cutout import cut_out, floors, lay
from vision.datasets import UNKNOWN, Dataset, Sample, merge, open_dataset, read_image, read_label_map
from vision.errors import DatasetError, ImageError
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec, preprocess
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.dataset import simulator_dataset

log = logging.getLogger(__name__)

T = TypeVar("T")
Watch = Callable[[Iterable[Any]], Iterable[Any]]

# Target of a picture that shows none of the labels.
FOREIGN = -1
# Empty chutes rendered, and as many stretches of pictures at most.
FLOORS = 250
# Materials that come as sheets: any piece of such a picture is an item. Materials that light passes through.
SHEETS = ("cardboard", "paper")
CLEAR = ("glass", "plastic")


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
        label_map = read_label_map(config.label_map) if config.label_map else None
        dataset = merge([open_dataset(root, label_map) for root in (config.root, *config.also)])
    dataset = replace(dataset, samples=tuple(s for s in dataset.samples if s.label != UNKNOWN))
    train, val = dataset.select("train"), dataset.select("val")
    if config.drop_suspect:
        kept = tuple(s for s in train.samples if not s.suspect)
        train = Dataset(train.name, kept, train.licence, train.left_out)
    log.info("training on %s", ", ".join(f"{name} {n}" for name, n in sorted(train.counts().items())))
    if dataset.left_out:
        log.warning(
            "%s: left out, for no label has that name: %s; see --set data.label_map=...", dataset.name,
            ", ".join(f"{name} ({n})" for name, n in dataset.left_out),
        )  # fmt: skip
    if both := {s.group for s in train.samples} & {s.group for s in val.samples}:
        log.warning(
            "%s: %d groups are in train and val; what is fitted on val takes only pictures of the others", dataset.name,
            len(both),
        )  # fmt: skip
    if val.drawn and config.root is not None:
        log.warning(
            "%s: names no val part, so one was drawn picture by picture: shots of one object may be on both sides, and "
            "then all that is measured on val flatters. Group them first: binsight data split --data %s",
            dataset.name, config.root,
        )  # fmt: skip
    if unseen := val.labels() - train.labels():
        raise DatasetError(f"{dataset.name}: labels in val but not in train: {', '.join(sorted(unseen))}")
    return train, val


def open_foreign_data(config: DataConfig, labels: Collection[str], split: str, seed: int, scratch: Path) -> Dataset:
    """Return the pictures of one split that show none of `labels`; the set may be empty.

    Args:
        scratch: folder where simulator pictures are rendered to.

    Raises:
        DatasetError: a set has no such picture.
    """
    label_map = read_label_map(config.label_map) if config.label_map else None
    sets = [open_dataset(root, label_map, unmapped=UNKNOWN) for root in config.foreign]
    for root, foreign in zip(config.foreign, sets, strict=True):
        if not any(s.split == split and s.label not in labels for s in foreign.samples):
            raise DatasetError(f"data.foreign: {root}: no picture of another label in its split {split!r}")
    others = tuple(label for label in CATALOGUE if label not in labels)
    if config.foreign_simulated and others:
        sets.append(simulator_dataset(scratch, config.foreign_simulated, seed, others))
    if not sets:
        return Dataset("none", ())
    merged = merge(sets)
    return replace(merged, samples=tuple(s for s in merged.samples if s.split == split and s.label not in labels))


class Cutouts:
    """What `cut_out` finds on training pictures, and the floors to lay the items on.

    Args:
        pictures: the training pictures.
        labels: of each; None for a picture of no label.
        seed: of the floors.
        watch: wraps the pictures, for a progress bar.
    """

    def __init__(self, pictures: Pictures, labels: Sequence[str | None], seed: int, watch: Watch = iter) -> None:
        rng = np.random.default_rng([seed, 3])
        self.masks = [cut_out(pictures[i]) for i in watch(range(len(pictures)))]
        # A picture without a plain background shows a place; one with it shows the board that is to be unlearnt. A
        # place from a labelled picture would bring its item along.
        places = [i for i, mask in enumerate(self.masks) if mask is None and labels[i] is None]
        chosen = rng.permutation(places)[:FLOORS]
        self._floors = floors(FLOORS, [pictures[int(i)] for i in chosen], rng)
        self._labels = labels

    def lay(self, index: int, pixels_hwc: Pixels, rng: np.random.Generator) -> Pixels | None:
        """Return the item of picture `index` on some floor; None if it cannot be cut out."""
        mask, label = self.masks[index], self._labels[index]
        if mask is None and label not in SHEETS:
            return None
        floor = self._floors[int(rng.integers(len(self._floors)))]
        return lay(pixels_hwc, mask, floor, label in CLEAR, rng)


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

    def read_all(self) -> None:
        """Read each picture once: better told before an hour of training than after.

        Raises:
            DatasetError: some cannot be read; the message names them.
        """
        bad = []
        for index in range(len(self)):
            try:
                self[index]
            except ImageError as error:
                bad.append(str(error))
        if bad:
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DatasetError(f"{len(bad)} pictures cannot be read: {'; '.join(bad[:5])}{more}")

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
    cutouts: Cutouts | None = None,
    share: float = 0.0,
    foreign: float = 0.0,
    worker: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Pixels, NDArray[np.int64]]]:
    """Yield one epoch of shuffled, augmented batches; equal for equal keys. A last batch of too few is left out.

    Args:
        pictures, targets_n: a target of FOREIGN is a picture of no label.
        foreign: how many of those an epoch takes, as a share of the labelled pictures, which it takes all.
        key: (seed, epoch).
        strength: of the augmentation; half of it for items laid on another floor, which are varied already.
        cutouts, share: lay this share of the items on other floors.
        worker: (rank, count): which share of each batch to make; together the workers make all of it.

    Yields:
        uint8 batch x height x width x 3 in the spec's colour order; int64 targets.
    """
    rng = np.random.default_rng([*key, 0])
    labelled, others = np.flatnonzero(targets_n != FOREIGN), np.flatnonzero(targets_n == FOREIGN)
    some = rng.permutation(others)[: epoch_length(targets_n, foreign) - len(labelled)]
    order = rng.permutation(np.concatenate([labelled, some]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rank, workers = worker
        if len(chosen) < 2 * workers:  # batch normalisation needs two
            return
        chosen = chosen[rank::workers]
        inputs = [_input(int(i), pictures, spec, key, strength, cutouts, share) for i in chosen]
        yield np.concatenate(inputs), targets_n[chosen]


def epoch_length(targets_n: NDArray[np.int64], foreign: float) -> int:
    """Return how many pictures an epoch takes: see `epoch_batches`."""
    labelled = int((targets_n != FOREIGN).sum())
    return labelled + min(round(foreign * labelled), len(targets_n) - labelled)


def ahead(batches: Iterator[T]) -> Iterator[T]:
    """Yield the same, with the next one made in a thread meanwhile: OpenCV and torch work at the same time."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _input(
    index: int,
    pictures: Pictures,
    spec: PreprocessSpec,
    key: tuple[int, int],
    strength: float,
    cutouts: Cutouts | None,
    share: float,
) -> Pixels:
    rng, pixels = np.random.default_rng([*key, 1, index]), pictures[index]
    if cutouts is not None and rng.random() < share and (laid := cutouts.lay(index, pixels, rng)) is not None:
        pixels, strength = laid, strength / 2
    return preprocess(augment(pixels, rng, strength), spec)
