"""Read a set of images from a `splits.csv` or from class folders.

Folder names become labels only through a label map.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vision.datasets.images import scan
from vision.datasets.samples import Dataset, Sample, split_by_group
from vision.errors import DatasetError
from vision.taxonomy import MATERIALS_1

# SPDX id -> words that stand in the licence's own text or name it in full.
LICENCES = {
    "CC-BY-NC-SA-4.0": "CC BY-NC-SA 4.0",
    "MIT": "MIT License",
    "CC0-1.0": "CC0 1.0",
    "Apache-2.0": "Apache License",
    "CC-BY-4.0": "CC BY 4.0",
}

# Names of splits as public sets spell them -> ours.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VAL_SHARE = 0.2
LabelMap = Mapping[str, str | None]
# What a label map calls things that are none of a bundle's labels; they measure the unknown test.
UNKNOWN = "unknown"


def open_dataset(
    root: Path, label_map: LabelMap | None = None, unmapped: str | None = None
) -> Dataset:
    """Read a set of images in whichever known form it has.

    The forms are an index (CSV), a folder with a `splits.csv`, and class folders.

    Args:
        root: the folder, or the index file.
        label_map: name in the data -> label, or None to leave those images out; by default each
            label of the taxonomy stands for itself and every other name is left out and reported in
            `Dataset.left_out`.
        unmapped: label for names that neither map nor taxonomy know; UNKNOWN for a set of outliers.

    Raises:
        DatasetError: no such folder, no image in it, or no image with a known label.
    """
    if root.suffix.lower() == ".csv" and root.is_file():
        return read_index(root, label_map, unmapped)
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder. Name one with a splits.csv or with one sub-folder for each "
            "label."
        )
    if (root / "splits.csv").is_file():
        return read_index(root / "splits.csv", label_map, unmapped)
    return read_class_folders(root, label_map, unmapped)


def read_index(
    index: Path, label_map: LabelMap | None = None, unmapped: str | None = None
) -> Dataset:
    """Read an index: a CSV file with the columns path and label.

    The columns split, group, licence and label_suspect are optional. Paths are relative to the
    file's folder, whose name the set takes. Without a group column each image is its own group.

    Raises:
        DatasetError: the file lacks a column, names a missing image, or leaves no sample.
    """
    root = index.parent
    try:
        with index.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := {"path", "label"} - set(reader.fieldnames or ()):
                hint = (
                    "; save it with commas between the columns"
                    if ";" in "".join(reader.fieldnames or ())
                    else ""
                )
                raise DatasetError(f"{index}: column missing: {', '.join(sorted(missing))}{hint}")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{index}: not a readable table ({error}); save it as CSV in UTF-8"
        ) from error
    samples = []
    left_out = Counter[str]()
    licences = set()
    for line, row in enumerate(rows, start=2):
        if row["path"] is None or row["label"] is None:
            raise DatasetError(f"{index}, line {line}: path or label missing")
        named = row["label"].strip()
        label = _mapped(named, label_map, unmapped)
        if label is None:
            left_out[named] += 1
            continue
        path = root / row["path"]
        if not path.is_file() and "\\" in row["path"]:
            path = root / row["path"].replace("\\", "/")  # the index was written on Windows
        if not path.is_file():
            raise DatasetError(f"{index}, line {line}: no such image: {row['path']}")
        licences.add(row.get("licence") or "")
        split = (row.get("split") or "").strip()
        suspect = row.get("label_suspect") == "1"
        split = _SPLITS.get(split.lower(), split)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else row["path"]
        samples.append(Sample(path, name, label, split, row.get("group") or name, suspect))
    licence = ", ".join(sorted(licences - {""})) or _licence_of(root)
    return _checked(root, samples, left_out, licence)


def read_class_folders(
    root: Path, label_map: LabelMap | None = None, unmapped: str | None = None
) -> Dataset:
    """Read a folder with one sub-folder for each class.

    Folders train/, val/ or valid/, and test/ may lie somewhere above the class folders. Where there
    is no val/, `split_by_group` draws it from train/, or from everything; each image is then its
    own group.
    """
    samples = []
    left_out = Counter[str]()
    images, others = scan(root)
    left_out.update(
        {
            f"{what} files" if what.startswith(".") else what: number
            for what, number in others.items()
        }
    )
    paths = [path.relative_to(root) for path in images]
    parts_of = {
        path: [i for i, part in enumerate(path.parts[:-1]) if part.lower() in _SPLITS]
        for path in paths
    }
    # Archives wrap a set into a folder of their own, so the parts may lie deeper.
    has_splits = any(
        _SPLITS[path.parts[i].lower()] == "train" for path, at in parts_of.items() for i in at
    )
    for path in paths:
        parts = path.parts
        at = parts_of[path] if has_splits else []
        split = _SPLITS[parts[at[0]].lower()] if at else ""
        folders = parts[at[0] + 1 : -1] if at else parts[:-1]
        folder = folders[-1] if folders else "(no folder)"
        label = _mapped(folder, label_map, unmapped)
        if label is None:
            left_out[folder] += 1
            continue
        name = "/".join(parts)
        samples.append(Sample(root / path, name, label, split, name))
    if not images:
        found = (
            f"; found {', '.join(f'{n} {suffix}' for suffix, n in others.most_common(8))}"
            if others
            else ""
        )
        raise DatasetError(
            f"{root}: no image in it{found}. Expected one sub-folder of images for each label."
        )
    if drawn := not any(s.split == "val" for s in samples):
        kept = [s for s in samples if s.split == "test"]
        samples = [*split_by_group([s for s in samples if s.split != "test"], VAL_SHARE), *kept]
    return replace(_checked(root, samples, left_out, _licence_of(root)), drawn=drawn)


def read_label_map(path: Path) -> dict[str, str | None]:
    """Read a label map: one JSON object from names in the data to labels.

    A value is a label of the taxonomy, "unknown", or null to leave those images out.

    Raises:
        DatasetError: not such a file, or a label that no taxonomy knows.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable JSON label map ({error})") from error
    if not isinstance(document, dict) or not all(
        v is None or isinstance(v, str) for v in document.values()
    ):
        raise DatasetError(
            f'{path}: a label map is one object: {{"name in the data": "label" or null}}'
        )
    MATERIALS_1.ordered(v for v in document.values() if v not in (None, UNKNOWN))
    return document


def _mapped(name: str, label_map: LabelMap | None, unmapped: str | None) -> str | None:
    if label_map is not None and name in label_map:
        return label_map[name]
    own = name == UNKNOWN or name in MATERIALS_1.labels
    return name if own and (label_map is None or unmapped) else unmapped


def _licence_of(root: Path) -> str:
    for name in ("SOURCE.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE-and-source.md"):
        if (file := root / name).is_file():
            text = file.read_text("utf-8", errors="replace")
            return ", ".join(spdx for spdx, title in LICENCES.items() if title in text) or name
    return "unknown"


def _checked(root: Path, samples: list[Sample], left_out: Counter[str], licence: str) -> Dataset:
    if not samples:
        found = ", ".join(f"{name} ({n})" for name, n in left_out.most_common(8)) or "nothing"
        raise DatasetError(
            f"{root}: no image has a known label. Found: {found}. "
            f"Known: {', '.join(MATERIALS_1.labels)}. Map names to labels with --label-map."
        )
    return Dataset(root.resolve().name, tuple(samples), licence, tuple(left_out.most_common()))
