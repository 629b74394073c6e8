"""Find what is wrong with a set of images.

That is unreadable files, duplicates, near-duplicates, label conflicts, and leaks between splits.
Near-duplicates are found by a perceptual hash (64 low frequencies of the image) that is compared in
all eight turns and flips, and confirmed by the correlation of small colour images, because plain
backgrounds make hashes alike by chance. That finds the same photograph resized, recompressed,
brightened, turned or mirrored, and series of one object that hardly moved. It does not find another
photograph of the same object from elsewhere: for those, write a `group` column.

Source of the hash: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010, section 3.2.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.datasets.images import read_image, shown
from vision.datasets.samples import Dataset, Progress, Sample, split_by_group
from vision.errors import DatasetError, ImageError
from vision.files import write_atomically
from vision.frames import Pixels

# Bits of 64 that may differ, and the correlation that small images then must have. On TrashNet,
# whose groups were made by hand and by local features, 19 of the 31 pairs that these find lie in
# one group.
NEAR_BITS = 10
NEAR_CORRELATION = 0.9
_SIDE = 32
_LOW = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that look alike.

    Attributes:
        first, second: their names.
        bits: of 64 hash bits, how many differ; 0 for equal files too.
        same_file: True if the bytes are equal.
        conflict: True if they have different labels.
        leak: True if they are in different splits.
    """

    first: str
    second: str
    bits: int
    same_file: bool
    conflict: bool
    leak: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """What `check` found.

    Attributes:
        unreadable: (name, reason).
        pairs: duplicates and near-duplicates, closest first.
        group_leaks: groups of the set's own that lie in more than one split.
        look_alikes: sets of names that pairs tie together, each of two or more.
    """

    unreadable: tuple[tuple[str, str], ...]
    pairs: tuple[Pair, ...]
    group_leaks: tuple[str, ...]
    look_alikes: tuple[tuple[str, ...], ...]

    def summary(self) -> dict[str, int]:
        """Return the counts."""
        return {
            "unreadable": len(self.unreadable),
            "duplicates": sum(p.same_file for p in self.pairs),
            "near_duplicates": sum(not p.same_file for p in self.pairs),
            "label_conflicts": sum(p.conflict for p in self.pairs),
            "leaks_between_splits": sum(p.leak for p in self.pairs),
            "groups_in_several_splits": len(self.group_leaks),
        }


def check(dataset: Dataset, progress: Progress = iter) -> Findings:
    """Read every image and compare each with each.

    Args:
        dataset: of any number of images; 10,000 take about 30 seconds of comparing beyond the
            reading.
        progress: wraps the samples, for a progress bar.
    """
    readable: list[Sample] = []
    unreadable: list[tuple[str, str]] = []
    hashes: list[NDArray[np.uint64]] = []
    small: list[Pixels] = []
    digests: list[bytes] = []
    for sample in progress(dataset.samples):
        try:
            pixels = read_image(sample.path)
            _must_be_utf8(sample)
        except ImageError as error:
            unreadable.append((sample.name, str(error)))
            continue
        readable.append(sample)
        hashes.append(perceptual_hashes(pixels))
        lab = cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB)
        small.append(
            np.asarray(
                cv2.resize(lab, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8
            )
        )
        digests.append(hashlib.sha256(sample.path.read_bytes()).digest())
    pairs = [
        Pair(
            a.name,
            b.name,
            bits,
            digests[i] == digests[j],
            a.label != b.label,
            bool(a.split and b.split) and a.split != b.split,
        )
        for i, j, bits in _near(np.array(hashes, dtype=np.uint64).reshape(-1, 8))
        if digests[i] == digests[j] or _correlation(small[i], small[j]) >= NEAR_CORRELATION
        for a, b in [(readable[i], readable[j])]
    ]
    splits: dict[str, set[str]] = {}
    for s in dataset.samples:
        splits.setdefault(s.group, set()).add(s.split)
    return Findings(
        tuple(unreadable),
        tuple(sorted(pairs, key=lambda p: (not p.same_file, p.bits, p.first, p.second))),
        tuple(sorted(group for group, where in splits.items() if len(where) > 1)),
        tuple(tied([(p.first, p.second) for p in pairs])),
    )


def regroup(dataset: Dataset, findings: Findings, val_share: float) -> Dataset:
    """Return the readable images with look-alikes in one group, split again group by group.

    Args:
        dataset: the set that `check` has read.
        findings: what it found.
        val_share: share of each label's images that goes into val, 0..1.
    """
    bad = {name for name, _ in findings.unreadable}
    samples = [s for s in dataset.samples if s.name not in bad]
    by_name = {s.name: s for s in samples}
    links = [(a, b) for together in findings.look_alikes for a, b in pairwise(together)]
    first: dict[str, str] = {}
    for s in samples:
        links.append((first.setdefault(s.group, s.name), s.name))
    group = {name: together[0] for together in tied(links) for name in together}
    joined = [replace(s, group=by_name[group.get(s.name, s.name)].group) for s in samples]
    return replace(dataset, samples=split_by_group(joined, val_share))


def write_index(dataset: Dataset, path: Path) -> None:
    """Write a set's index, `splits.csv`.

    Its columns are path, label, split, group, label_suspect and licence; paths are relative to the
    file's folder.

    Raises:
        DatasetError: an image lies outside of that folder.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "label", "split", "group", "label_suspect", "licence"))
    root = path.parent.resolve()
    licence = "" if dataset.licence == "unknown" else dataset.licence
    for s in dataset.samples:
        if not s.path.resolve().is_relative_to(root):
            raise DatasetError(
                f"{path}: {s.path} is not below its folder; write the index into the set's own "
                "folder"
            )
        name = s.path.resolve().relative_to(root).as_posix()
        writer.writerow((name, s.label, s.split, s.group, int(s.suspect), licence))
    write_atomically(path, table.getvalue().encode())


def _must_be_utf8(sample: Sample) -> None:
    """Refuse an image whose name within its set no index can hold."""
    try:
        sample.name.encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            f"{shown(sample.path)}: the file's name is not UTF-8; rename it"
        ) from error


def perceptual_hashes(pixels_hwc: Pixels) -> NDArray[np.uint64]:
    """Return 8 hashes, one for each turn and flip; the first is of the image as it is."""
    grey = cv2.resize(
        cv2.cvtColor(pixels_hwc, cv2.COLOR_BGR2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA
    )
    return np.array([_hash(view) for view in _views(grey)], dtype=np.uint64)


def tied(links: Iterable[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """Yield the connected sets of two or more names, each sorted."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for a, b in links:
        parent[root(a)] = root(b)
    members: dict[str, list[str]] = {}
    for name in parent:
        members.setdefault(root(name), []).append(name)
    for together in members.values():
        if len(together) > 1:
            yield tuple(sorted(together))


def _views(square: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.rot90(v, k) for v in (square, square[:, ::-1]) for k in range(4)]


def _correlation(first: Pixels, second: Pixels) -> float:
    a = (first - first.mean((0, 1))).ravel()
    others = [(view - view.mean((0, 1))).ravel() for view in _views(second)]
    return max(float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-6)) for b in others)


def _hash(grey: NDArray[np.uint8]) -> int:
    low = cv2.dct(np.ascontiguousarray(grey, dtype=np.float32))[:_LOW, :_LOW].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _near(hashes_n8: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, bits) with i < j for all images at most NEAR_BITS apart in some turn or flip."""
    for i in range(len(hashes_n8) - 1):
        apart = np.bitwise_count(hashes_n8[i + 1 :, 0, None] ^ hashes_n8[i][None, :]).min(axis=1)
        for j in np.flatnonzero(apart <= NEAR_BITS):
            yield i, i + 1 + int(j), int(apart[j])


def label_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return split -> label -> number of images."""
    counts = Counter((s.split or "(none)", s.label) for s in dataset.samples)
    table: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts.items()):
        table.setdefault(split, {})[label] = number
    return table
