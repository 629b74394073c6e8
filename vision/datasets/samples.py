"""Sample, Dataset and the grouped split.

Nothing here reads an image's pixels or prints: who wants a progress bar passes one in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision.errors import DatasetError

# Wraps what is iterated over, such as the samples of a set, to show how far it is; `iter` shows
# nothing.
Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: file of the image.
        name: path relative to the set, with forward slashes; the same on every machine.
        label: its label in the taxonomy.
        split: "train", "val", ... or "" where the set has none.
        group: images that must stay on one side of a split (same object, same printed packaging).
        suspect: True if the set's maker doubts the label.
    """

    path: Path
    name: str
    label: str
    split: str
    group: str
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """An immutable list of samples with where they came from.

    Attributes:
        name: for people and manifests.
        samples: in a stable order.
        licence: licence of the images, "unknown" if the set does not say.
        left_out: folder or label that the label map left out -> number of images.
        drawn: True if the set names no val part and no objects: val was drawn image by image, so
            that two images of one object may lie on both sides.
    """

    name: str
    samples: tuple[Sample, ...]
    licence: str = "unknown"
    left_out: tuple[tuple[str, int], ...] = ()
    drawn: bool = False

    def select(self, split: str) -> Dataset:
        """Return the samples of one split.

        Raises:
            DatasetError: the set has no such split.
        """
        chosen = tuple(s for s in self.samples if s.split == split)
        if not chosen:
            known = sorted({s.split for s in self.samples})
            raise DatasetError(
                f"{self.name}: no image in split {split!r}; it has {', '.join(map(repr, known))}. "
                "Make splits with 'binsight data split'."
            )
        return replace(self, samples=chosen)

    def labels(self) -> set[str]:
        """Return the labels that occur."""
        return {s.label for s in self.samples}

    def set_of(self, sample: Sample) -> str:
        """Return the name of the set, of several merged ones, that a sample came from."""
        first = sample.name.partition("/")[0]
        return first if first in self.name.split("+") else self.name

    def counts(self) -> Counter[str]:
        """Return the number of samples of each label."""
        return Counter(s.label for s in self.samples)

    def digest(self) -> str:
        """Return a sha256 over names, labels and image bytes.

        Equal data give an equal digest on every machine.
        """
        total = hashlib.sha256()
        for sample in sorted(self.samples, key=lambda s: s.name):
            image = hashlib.sha256(sample.path.read_bytes()).hexdigest()
            total.update(_bytes(f"{sample.name}\t{sample.label}\t{sample.split}\t{image}\n"))
        return total.hexdigest()


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Return one set made of several.

    Names and groups get their set's name in front, so that equal ones stay apart.
    """
    if len(datasets) == 1:
        return datasets[0]
    named: dict[str, Dataset] = {}
    for d in datasets:
        name = d.name
        number = 1
        while name in named:
            number += 1
            name = f"{d.name}-{number}"
        named[name] = d
    samples = tuple(
        replace(s, name=f"{name}/{s.name}", group=f"{name}/{s.group}")
        for name, d in named.items()
        for s in d.samples
    )
    left_out = tuple((f"{name}/{what}", n) for name, d in named.items() for what, n in d.left_out)
    licences = "; ".join(f"{name}: {d.licence}" for name, d in named.items())
    return Dataset("+".join(named), samples, licences, left_out, any(d.drawn for d in datasets))


def split_by_group(samples: Iterable[Sample], val_share: float) -> tuple[Sample, ...]:
    """Assign "train" or "val" so that no group is on both sides, label by label.

    Groups are visited in the order of a hash of their names. One goes into val if that brings its
    label's val part nearer to `val_share` of the label's images; of two or more groups, at least
    one does. The split is the same on every machine and for every seed, and images that come later
    hardly move it.

    Args:
        samples: any splits they have are replaced.
        val_share: 0..1.
    """
    ordered = sorted(samples, key=lambda s: s.name)
    side: dict[str, str] = {}
    for label in sorted({s.label for s in ordered}):
        sizes = Counter(s.group for s in ordered if s.label == label)
        wanted = val_share * sum(sizes.values())
        taken = float(sum(size for name, size in sizes.items() if side.get(name) == "val"))
        free = sorted(
            (name for name in sizes if name not in side),
            key=lambda name: hashlib.sha256(_bytes(name)).digest(),
        )
        for name in free:
            side[name] = "val" if taken + sizes[name] / 2 <= wanted else "train"
            taken += sizes[name] if side[name] == "val" else 0
        if not taken and len(free) > 1:
            side[min(free, key=lambda name: sizes[name])] = "val"
    return tuple(replace(s, split=side[s.group]) for s in ordered)


def _bytes(name: str) -> bytes:
    """Return a file's name as the file system has it, UTF-8 or not."""
    return name.encode(errors="surrogateescape")
