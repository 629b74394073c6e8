"""What int8 may cost: how it is measured, and beyond what it is refused.

Against its own float bundle by what both get right, and against the exact computation of the same
graph by what this processor's kernels make of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate import Outputs, Session
from training.progress import Progress
from vision.datasets import Dataset, Sample, read_image
from vision.frames import Pixels
from vision.manifest import Manifest
from vision.preprocess import preprocess

# What int8 may cost against its own float bundle on val: in all, and on any one label; each image
# in VIEWS ways.
MAX_ACCURACY_LOSS = 0.005
# What this processor's kernels may differ by from the exact computation, over the val images as
# they are: rounding in other places moves a few. Saturation moves many, and far
# (docs/decisions/0011).
MAX_OTHER_LABELS = 0.01
MIN_MEAN_COSINE = 0.999
MAX_LABEL_LOSS = 0.02
# A label of fewer images is judged with all the others, not by itself.
FEW_IMAGES = 10
# What is lost on the images as they are, once each, counts beyond chance alone: one in twenty.
BEYOND_CHANCE = 1.645
# Each image is scored in all turns and flips: an item lies any way up, and one image of a rare
# label is more than two points of it, and a loss could not be distinguished from luck.
VIEWS = 8


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two computations of one graph are apart, over n images.

    Attributes:
        images: n.
        other_labels: images that get another label.
        logit: greatest difference of a logit.
        least_cosine, mean_cosine: between the two embeddings of an image.
    """

    images: int
    other_labels: int
    logit: float
    least_cosine: float
    mean_cosine: float

    def too_much(self) -> bool:
        """Return whether this is more than rounding."""
        return (
            self.other_labels > max(1, MAX_OTHER_LABELS * self.images)
            or self.mean_cosine < MIN_MEAN_COSINE
        )

    def message(self) -> str:
        """Return a line for people."""
        return (
            f"{self.other_labels} of {self.images} labels differ from the exact computation, a "
            "logit by "
            f"{self.logit:.2g}, an embedding's cosine down to {self.least_cosine:.4f} (mean "
            f"{self.mean_cosine:.5f})"
        )


def part(here: Outputs, exact: Outputs) -> Gap:
    """Return how far the outputs of two computations of one graph are apart."""
    a = here.embeddings_nd
    b = exact.embeddings_nd
    cosines = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12
    )
    other = int((here.logits_nk.argmax(1) != exact.logits_nk.argmax(1)).sum())
    greatest = float(np.abs(here.logits_nk - exact.logits_nk).max())
    return Gap(len(a), other, greatest, float(cosines.min()), float(cosines.mean()))


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 gets right against float, over all views of the same images.

    Attributes:
        images: of each label.
        before, after: accuracy of each label, float and int8, 0..1.
        overall: accuracy of float minus that of int8.
        upright: the same on the images as they are, once each.
        upright_error: standard error of it, from the images that only one of the two gets right.
    """

    images: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    overall: float
    upright: float
    upright_error: float

    def too_much(self) -> bool:
        """Return whether the bundle must be refused."""
        worst = max((self._lost(label) for label in self.before), default=0.0)
        upright = self.upright - BEYOND_CHANCE * self.upright_error
        return max(self.overall, upright) > MAX_ACCURACY_LOSS or worst > MAX_LABEL_LOSS

    def _lost(self, label: str) -> float:
        few = self.images[label] < FEW_IMAGES
        return 0.0 if few else self.before[label] - self.after[label]

    def table(self) -> str:
        """Return a table for people: where it is lost."""
        rows = [f"{'label':<12}{'images':>9}{'float':>8}{'int8':>8}{'lost':>8}"]
        for label, before in self.before.items():
            lost = before - self.after[label]
            mark = "  over the limit" if self._lost(label) > MAX_LABEL_LOSS else ""
            rows.append(
                f"{label:<12}{self.images[label]:>9}{before:>8.3f}{self.after[label]:>8.3f}{lost:>8.3f}{mark}"
            )
        rows.append(
            f"lost in all {self.overall:.4f}, upright alone {self.upright:.4f} "
            f"(standard error {self.upright_error:.4f}); "
            f"allowed {MAX_ACCURACY_LOSS} in all, {MAX_LABEL_LOSS} on a label, "
            f"each image in {VIEWS} turns and flips"
        )
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a manifest stores."""
        lost = {label: round(self.before[label] - self.after[label], 5) for label in self.before}
        return {
            "views_of_each_image": VIEWS,
            "lost": round(self.overall, 5),
            "lost_upright": round(self.upright, 5),
            "lost_upright_error": round(self.upright_error, 5),
            "lost_on": lost,
        }


def compare(
    before: Session,
    after: Session,
    manifest: Manifest,
    val: Dataset,
    progress: Progress = iter,
) -> Loss:
    """Run two graphs over every view of the images, and count what each gets right.

    Args:
        before: the float graph, best in a session of one thread: images are spread over the cores.
        after: the int8 graph, likewise.
        manifest: of both.
        val: the images.
        progress: wraps the images, for a progress bar.
    """
    labels = manifest.labels
    right = np.zeros((2, len(labels)))
    upright = np.zeros(2, dtype=np.int64)
    only_one = 0
    images = np.zeros(len(labels), dtype=np.int64)
    tensors = manifest.tensors

    def called(sample: Sample) -> NDArray[np.int64]:  # of each graph, on each view
        inputs = [preprocess(v, manifest.preprocess) for v in views(read_image(sample.path))]
        graphs = (before, after)
        logits = [[g.run([tensors.logits], {tensors.input: x})[0] for x in inputs] for g in graphs]
        return np.asarray(np.array(logits)[:, :, 0].argmax(-1), dtype=np.int64)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for sample, called_gv in zip(
            val.samples, progress(pool.map(called, val.samples)), strict=True
        ):
            truth = labels.index(sample.label)
            images[truth] += 1
            right[:, truth] += (called_gv == truth).sum(1)
            upright += called_gv[:, 0] == truth
            only_one += int((called_gv[0, 0] == truth) != (called_gv[1, 0] == truth))
    there = images > 0
    shares = right[:, there] / (VIEWS * images[there])
    names = [label for label, is_there in zip(labels, there, strict=True) if is_there]
    return Loss(
        dict(zip(names, images[there].tolist(), strict=True)),
        dict(zip(names, shares[0].tolist(), strict=True)),
        dict(zip(names, shares[1].tolist(), strict=True)),
        float((right[0].sum() - right[1].sum()) / (VIEWS * images.sum())),
        float(upright[0] - upright[1]) / int(images.sum()),
        only_one**0.5 / int(images.sum()),
    )


def views(pixels_hwc: Pixels) -> list[Pixels]:
    """Return an image in its eight turns and flips."""
    return [
        np.ascontiguousarray(np.rot90(side, turn))
        for side in (pixels_hwc, pixels_hwc[:, ::-1])
        for turn in range(4)
    ]
