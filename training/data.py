"""From samples to batches of uint8 pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augment import augmented_input
from training.background import backgrounds, item_mask, paste
from training.config import DataConfig, RecipeConfig
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
from vision.preprocess import PreprocessSpec
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.dataset import simulator_dataset

log = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[Iterable[Any]], Iterable[Any]]

# With fewer training images a label is hardly learnt.
FEW = 10
# Target of an image that shows none of the labels.
NO_LABEL = -1
# Empty chutes rendered, and as many stretches of images at most.
BACKGROUNDS = 250
# Materials that come as sheets: any piece of such an image is an item. Materials that light passes
# through.
SHEETS = ("cardboard", "paper")
CLEAR = ("glass", "plastic")


def open_training_data(config: DataConfig, seed: int, scratch: Path) -> tuple[Dataset, Dataset]:
    """Return the (train, val) sets of a configuration.

    Args:
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
    if few := sorted(
        name for name, n in train.counts().items() if n < FEW or not val.counts()[name]
    ):
        log.warning(
            "%s: %s: under %d training images, or none in val: what is measured on them says little",
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
    if unseen := val.labels() - train.labels():
        raise DatasetError(
            f"{dataset.name}: labels in val but not in train: {', '.join(sorted(unseen))}"
        )
    return train, val


def set_digests(config: DataConfig, train: Dataset, val: Dataset) -> dict[str, str]:
    """Return lineage by which each of several merged sets is known again when it comes alone.

    Of one set there is none.

    Args:
        config: what `train` and `val` were opened by.
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


def open_outliers(
    config: DataConfig, labels: Collection[str], split: str, seed: int, scratch: Path
) -> Dataset:
    """Return the images of one split that show none of `labels`; the set may be empty.

    Args:
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


def repeats(config: DataConfig, samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Return how often an epoch shows each of the training samples.

    1 but for the sets named in `data.repeat`.

    Raises:
        DatasetError: a name there is no set's.
    """
    sets = [s.name.split("/")[0] if config.also else "" for s in samples]
    if unknown := set(config.repeat) - set(sets):
        names = ", ".join(sorted(set(sets) - {""})) or "none, for data.also is empty"
        raise DatasetError(
            f"data.repeat: no set is named {', '.join(sorted(unknown))}; sets: {names}"
        )
    return np.array([config.repeat.get(name, 1) for name in sets], dtype=np.int64)


class BackgroundSwap:
    """What `item_mask` finds on training images, and the backgrounds to lay the items on.

    Args:
        images: the training images.
        labels: of each; None for an image of no label.
        size_px: of the backgrounds, and so of the items laid on them.
        seed: of the backgrounds.
        progress: wraps the images, for a progress bar.
    """

    def __init__(
        self,
        images: Images,
        labels: Sequence[str | None],
        size_px: int,
        seed: int,
        progress: Progress = iter,
    ) -> None:
        rng = np.random.default_rng([seed, 3])
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of Python while it works
            coming = [pool.submit(lambda i: item_mask(images[i]), i) for i in range(len(images))]
            self.masks = [mask.result() for mask in progress(coming)]
        # An image without a plain background shows a place; one with it shows the board that is to
        # be unlearnt. A place from a labelled image would bring its item along.
        places = [i for i, mask in enumerate(self.masks) if mask is None and labels[i] is None]
        chosen = rng.permutation(places)[:BACKGROUNDS]
        self._backgrounds = backgrounds(BACKGROUNDS, [images[int(i)] for i in chosen], size_px, rng)
        self._labels = labels

    def apply(self, index: int, pixels_hwc: Pixels, rng: np.random.Generator) -> Pixels | None:
        """Return the item of image `index` on some floor; None if it cannot be cut out."""
        mask = self.masks[index]
        label = self._labels[index]
        if mask is None and label not in SHEETS:
            return None
        floor = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        return paste(pixels_hwc, mask, floor, label in CLEAR, rng)


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
        """Read each image once: better told before an hour of training than after.

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


class Batches(torch.utils.data.Dataset[tuple[Pixels, NDArray[np.int64]]]):
    """The batches of a training by (epoch, step).

    Shuffled, augmented, and the same whoever makes them, and when.

    An epoch takes every labelled image, `repeats_n` times, and some of no label. A last batch of
    too few is left out.

    Args:
        images, targets_n: a target of NO_LABEL is an image of no label.
        spec: of the network.
        recipe: batch size, augmentation, share of items on other backgrounds and of images of no
            label.
        seed: of the order and of every change.
        swap: the items, if some are to be laid on other backgrounds; these get half of the
            augmentation, for they are varied already.
        repeats_n: how often an epoch shows each; None for once.
        worker: (rank, count): which share of each batch to make; together the workers make all of
            it.
    """

    def __init__(
        self,
        images: Images,
        targets_n: NDArray[np.int64],
        spec: PreprocessSpec,
        recipe: RecipeConfig,
        seed: int,
        swap: BackgroundSwap | None = None,
        repeats_n: NDArray[np.int64] | None = None,
        worker: tuple[int, int] = (0, 1),
    ) -> None:
        self._images = images
        self._targets_n = targets_n
        self._spec = spec
        self._recipe = recipe
        self._seed = seed
        self._swap = swap
        self._worker = worker
        labelled = np.flatnonzero(targets_n != NO_LABEL)
        self._labelled = np.repeat(labelled, 1 if repeats_n is None else repeats_n[labelled])
        self._others = np.flatnonzero(targets_n == NO_LABEL)
        self.length = len(self._labelled) + min(
            round(recipe.outlier_share * len(self._labelled)), len(self._others)
        )
        # Batch normalisation needs two images on each worker.
        self.steps = len(range(0, self.length - (2 * worker[1] - 1), recipe.batch_size))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.steps

    def __getitem__(self, at: tuple[int, int]) -> tuple[Pixels, NDArray[np.int64]]:
        """Return the batch of (epoch, step).

        Returns:
            uint8 batch x height x width x 3 in the spec's colour order; int64 targets.
        """
        epoch, step = at
        rng = np.random.default_rng([self._seed, epoch, 0])
        some = rng.permutation(self._others)[: self.length - len(self._labelled)]
        order = rng.permutation(len(self._labelled) + len(some))
        rank, workers = self._worker
        places = order[step * self._recipe.batch_size : (step + 1) * self._recipe.batch_size][
            rank::workers
        ]
        chosen = np.concatenate([self._labelled, some])[places]
        # An image's place in the epoch tells two showings of it apart.
        inputs = [
            self._input(int(i), [self._seed, epoch, 1, int(p)])
            for i, p in zip(chosen, places, strict=True)
        ]
        return np.concatenate(inputs), self._targets_n[chosen]

    def _input(self, index: int, key: list[int]) -> Pixels:
        rng = np.random.default_rng(key)
        pixels = self._images[index]
        strength = self._recipe.augment
        if self._swap is not None and rng.random() < self._recipe.background_swap:
            laid = self._swap.apply(index, pixels, rng)
            if laid is not None:
                pixels = laid
                strength = strength / 2
        return augmented_input(pixels, self._spec, rng, strength)


def stream(
    batches: Batches, epochs: range, workers: int, pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all batches of some epochs, in order, made ahead of their use.

    Args:
        batches: what to make.
        epochs: which.
        workers: processes that make them; 0 makes them in a thread, while torch computes: OpenCV
            lets go of Python.
        pin: in page-locked memory, from which a GPU copies while it computes.
    """
    keys = [(epoch, step) for epoch in epochs for step in range(batches.steps)]
    if not workers:
        made = (
            (torch.from_numpy(x), torch.from_numpy(y)) for x, y in (batches[key] for key in keys)
        )
        yield from ahead(made)
        return
    # Forked, the workers share the decoded images with this process; none of them runs torch.
    yield from torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4,
        multiprocessing_context="fork",
    )


def ahead(batches: Iterator[T]) -> Iterator[T]:
    """Yield the same, with the next one made in a thread meanwhile.

    OpenCV and torch work at the same time.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
