"""Write simulator images to disk as a set like any other: images/<label>/*.jpg, splits.csv."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from vision.datasets import Dataset, read_index
from vision.errors import DatasetError
from vision.files import write_atomically
from vision.frames import Pixels
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.scene import render

IMAGE_WIDTH_PX = 320
IMAGE_HEIGHT_PX = 240
VAL_EVERY = 5


def simulator_dataset(
    root: Path, images: int, seed: int, labels: tuple[str, ...] = tuple(CATALOGUE)
) -> Dataset:
    """Render images, evenly over the labels, and return them as a dataset.

    Every fifth image of a label is in the val split. A folder that already holds the set of these
    very arguments is read, not rendered again.

    Args:
        root: folder to write to.
        images: number of images in all.
        seed: first seed; image i is rendered from `seed * 1_000_000 + i`.
        labels: which labels to show.
    """
    recipe = json.dumps(
        {
            "images": images,
            "seed": seed,
            "labels": labels,
            "size": [IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX],
        }
    )
    stamp = root / "recipe.json"
    if (root / "splits.csv").exists() and not stamp.exists():
        raise DatasetError(
            f"{root}: holds a set that the simulator did not make; name an empty or a new folder"
        )
    if not (stamp.is_file() and stamp.read_text() == recipe):
        shutil.rmtree(root / "images", ignore_errors=True)  # our own, of another recipe
        jobs = [(root, labels[i % len(labels)], i, seed * 1_000_000 + i) for i in range(images)]
        for label in labels:
            (root / "images" / label).mkdir(parents=True, exist_ok=True)
        # Forking a process that runs threads (torch, OpenCV) can hang for ever.
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            names = list(pool.map(_write_image, jobs, chunksize=16))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("path", "label", "split", "group", "licence"))
        for (_, label, i, _), name in zip(jobs, names, strict=True):
            split = "val" if (i // len(labels)) % VAL_EVERY == 0 else "train"
            writer.writerow((name, label, split, name, "Apache-2.0"))
        write_atomically(root / "splits.csv", table.getvalue().encode())
        write_atomically(stamp, recipe.encode())
    return read_index(root / "splits.csv")


def contact_sheet(columns: int, seed: int, labels: tuple[str, ...] = tuple(CATALOGUE)) -> Pixels:
    """Return one image with a row of simulator images for each label: uint8, BGR."""
    rows = []
    for row, label in enumerate(labels):
        tiles = [
            render(label, 240, 180, seed * 1_000_000 + row * columns + c) for c in range(columns)
        ]
        strip = np.full((180, 110, 3), 255, dtype=np.uint8)
        cv2.putText(
            strip, label, (6, 96), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA
        )
        rows.append(np.hstack([strip, *tiles]))
    return np.vstack(rows)


def _write_image(job: tuple[Path, str, int, int]) -> str:
    root, label, index, seed = job
    cv2.setNumThreads(1)
    name = f"images/{label}/{index:06d}.jpg"
    image = render(label, IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX, seed)
    if not cv2.imwrite(str(root / name), image, [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise OSError(f"{root / name}: the image could not be written")
    return name
