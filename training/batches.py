"""The data of a run, and its batches by (epoch, step): shuffled, augmented, made ahead of use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from training.augment import augmented_input
from training.background import BackgroundSwap
from training.config import TrainConfig
from training.data import Images, open_outliers, open_training_data, prepare, repeats
from training.device import ALONE, Worker
from training.progress import on_terminal
from training.runs import Run
from vision.datasets import Dataset
from vision.frames import Pixels
from vision.taxonomy import MATERIALS_1

T = TypeVar("T")

# Target of an image that shows none of the labels.
NO_LABEL = -1


class Batches(torch.utils.data.Dataset[tuple[Pixels, NDArray[np.int64]]]):
    """The batches of a training by (epoch, step).

    Shuffled, augmented, and the same whoever makes them, and when.

    An epoch takes every labelled image, `repeats_n` times, and some of no label. A last batch of
    too few is left out.

    Args:
        images: labelled ones, and some of no label.
        targets_n: int64, of each; NO_LABEL for an image of no label.
        config: the network's input; batch size, augmentation, share of items on other backgrounds
            and of images of no label; the seed of the order and of every change.
        swap: the items, if some are to be laid on other backgrounds; these get half of the
            augmentation, for they are varied already.
        repeats_n: how often an epoch shows each; None for once. A fraction is the share of such
            images that an epoch shows once more, others in each.
        worker: which share of each batch to make; together the workers make all of it.
    """

    def __init__(
        self,
        images: Images,
        targets_n: NDArray[np.int64],
        config: TrainConfig,
        swap: BackgroundSwap | None = None,
        repeats_n: NDArray[np.float64] | None = None,
        worker: Worker = ALONE,
    ) -> None:
        self._images = images
        self._targets_n = targets_n
        self._spec = config.model.preprocess()
        self._recipe = config.recipe
        self._seed = config.seed
        self._swap = swap
        self._worker = worker
        labelled = np.flatnonzero(targets_n != NO_LABEL)
        often = np.ones(len(labelled)) if repeats_n is None else repeats_n[labelled]
        self._labelled = np.repeat(labelled, often.astype(np.int64))
        # Images that some epochs show once more, and how many of them an epoch does.
        self._at_times = [
            (some := labelled[often % 1 == share], round(share * len(some)))
            for share in np.unique(often % 1)
            if share
        ]
        self._others = np.flatnonzero(targets_n == NO_LABEL)
        known = len(self._labelled) + sum(count for _, count in self._at_times)
        self._unknown = min(round(self._recipe.outlier_share * known), len(self._others))
        self.length = known + self._unknown
        # Batch normalisation needs two images on each worker.
        self.steps = len(range(0, self.length - (2 * worker.count - 1), self._recipe.batch_size))

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
        others = rng.permutation(self._others)[: self._unknown]
        order = rng.permutation(self.length)
        places = order[step * self._recipe.batch_size : (step + 1) * self._recipe.batch_size][
            self._worker.rank :: self._worker.count
        ]
        drawn = [rng.permutation(some)[:count] for some, count in self._at_times]
        chosen = np.concatenate([self._labelled, *drawn, others])[places]
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


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The images of a run.

    Attributes:
        train, val, outliers: sets; that of outliers may be empty.
        labels: of the logits, in their order.
        images: decoded images of train, then of outliers.
        batches: of these images.
        val_x_nhwc: val images as network input, uint8.
        val_targets_n: int64, their labels.
    """

    train: Dataset
    val: Dataset
    outliers: Dataset
    labels: tuple[str, ...]
    images: Images
    batches: Batches
    val_x_nhwc: Pixels
    val_targets_n: NDArray[np.int64]


def open_data(config: TrainConfig, run: Run, worker: Worker, console: Console) -> TrainingData:
    """Open the sets of a run, read every image once, and lay out its batches.

    Args:
        config: of the run.
        run: its folder, where simulator images are rendered to.
        worker: whose share of each batch is made.
        console: for progress bars.

    Raises:
        DatasetError: a set cannot be used, or some of its images cannot be read.
    """
    # Rank 0 renders what the simulator is asked for, the others read it.
    if worker.rank > 0:
        torch.distributed.barrier()
    train, val = open_training_data(config.data, config.seed, run.images)
    labels = MATERIALS_1.ordered(train.labels())
    outliers = open_outliers(config.data, labels, "train", config.seed, run.outliers)
    if worker.rank == 0 and worker.count > 1:
        torch.distributed.barrier()
    images = Images(train.samples + outliers.samples)
    images.read_all()
    val_x_nhwc = prepare(val.samples, config.model.bundle_preprocess())
    seen = train.samples + outliers.samples
    known = [s.label if s.label in labels else None for s in seen]
    swap = None
    if config.recipe.background_swap:
        progress = on_terminal("cutting out", console)
        swap = BackgroundSwap(images, known, config.model.size_px, config.seed, progress)
    return TrainingData(
        train=train,
        val=val,
        outliers=outliers,
        labels=labels,
        images=images,
        batches=Batches(
            images,
            np.array([NO_LABEL if label is None else labels.index(label) for label in known]),
            config,
            swap,
            np.append(repeats(config.data, train.samples), np.ones(len(outliers.samples))),
            worker,
        ),
        val_x_nhwc=val_x_nhwc,
        val_targets_n=np.array([labels.index(s.label) for s in val.samples]),
    )


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
    loader = torch.utils.data.DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch
        sampler=[(epoch, step) for epoch in epochs for step in range(batches.steps)],
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # Forked, the workers share the decoded images with this process; none of them runs torch.
        multiprocessing_context="fork" if workers else None,
        # A loader draws a seed: not from the generator that mixing and dropout draw from.
        generator=torch.Generator(),
    )
    # Without processes a loader makes a batch when it is asked for one, while torch waits.
    yield from iter(loader) if workers else ahead(iter(loader))


def ahead(batches: Iterator[T]) -> Iterator[T]:
    """Yield the same, with the next one made in a thread meanwhile.

    OpenCV and torch work at the same time.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
