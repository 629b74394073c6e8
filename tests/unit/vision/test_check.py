"""Checking a set: what is planted is found, and a split by group holds."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision.datasets import open_dataset, read_image
from vision.datasets.check import check, regroup, write_index
from vision.errors import DatasetError
from vision.simulator.dataset import simulator_dataset


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """60 rendered images with a copy, a turned copy under another label, and a broken file.

    The turned copy is darker and recompressed.
    """
    root = tmp_path / "set"
    simulator_dataset(root, 60, 5, ("glass", "paper", "metal"))
    rows = list(csv.DictReader((root / "splits.csv").open()))
    glass, paper, metal = (
        next(r for r in rows if r["label"] == n) for n in ("glass", "paper", "metal")
    )
    (root / "copy.jpg").write_bytes((root / glass["path"]).read_bytes())
    turned = cv2.rotate(read_image(root / paper["path"]), cv2.ROTATE_90_CLOCKWISE)
    dim = np.clip(turned * 0.8, 0, 255).astype(np.uint8)
    cv2.imwrite(str(root / "turned.jpg"), dim, [cv2.IMWRITE_JPEG_QUALITY, 60])
    (root / "broken.jpg").write_bytes((root / metal["path"]).read_bytes()[:500])
    other = {"train": "val", "val": "train"}
    rows += [
        {**glass, "path": "copy.jpg", "split": other[glass["split"]], "group": "copy"},
        {**paper, "path": "turned.jpg", "label": "metal", "group": "turned"},
        {**metal, "path": "broken.jpg", "split": other[metal["split"]]},
    ]
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_what_was_planted_is_found_and_nothing_else(planted: Path) -> None:
    found = check(open_dataset(planted))
    assert [name for name, _ in found.unreadable] == ["broken.jpg"]
    assert "truncated" in found.unreadable[0][1]
    assert found.summary() == {
        "unreadable": 1,
        "duplicates": 1,
        "near_duplicates": 1,
        "label_conflicts": 1,
        "leaks_between_splits": 1,
        "groups_in_several_splits": 1,
    }
    copy, turned = found.pairs
    assert copy.same_file
    assert copy.leak
    assert not copy.conflict
    assert turned.conflict
    assert not turned.leak
    assert turned.second == "turned.jpg"


def test_a_split_by_group_has_no_leak_and_is_written_as_it_is_read(planted: Path) -> None:
    before = open_dataset(planted)
    done = regroup(before, check(before), 0.25)
    assert len(done.samples) == 62  # without the broken one
    write_index(done, planted / "new.csv")
    read = open_dataset(planted / "new.csv")
    assert [(s.name, s.label, s.split, s.group) for s in read.samples] == [
        (s.name, s.label, s.split, s.group) for s in done.samples
    ]
    assert read.counts().total() == 62
    assert 0.15 < len(read.select("val").samples) / 62 < 0.4
    after = check(read).summary()
    assert after["leaks_between_splits"] == after["groups_in_several_splits"] == 0
    with pytest.raises(DatasetError, match="not below its folder"):
        write_index(done, planted.parent / "elsewhere" / "new.csv")


def test_the_real_sets_doubts_are_found(shared: Path) -> None:
    """The set's maker flagged glass115 = metal91 and glass389 = plastic332 by hand."""
    whole = open_dataset(shared / "data/trashnet")
    names = {"glass/glass115", "metal/metal91", "glass/glass389", "plastic/plastic332"}
    some = [s for i, s in enumerate(whole.samples) if i % 10 == 0 or s.name[7:-4] in names]
    from dataclasses import replace

    conflicts = [
        {p.first, p.second} for p in check(replace(whole, samples=tuple(some))).pairs if p.conflict
    ]
    for a, b in (("glass/glass115", "metal/metal91"), ("glass/glass389", "plastic/plastic332")):
        assert {f"images/{a}.jpg", f"images/{b}.jpg"} in conflicts
