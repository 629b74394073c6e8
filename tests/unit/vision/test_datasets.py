"""Readers, label maps, grouped splits."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.datasets import Sample, merge, open_dataset, read_index, read_label_map, split_by_group
from vision.errors import DatasetError


def test_class_folders_become_a_set_with_a_split(image_folder: Path) -> None:
    dataset = open_dataset(image_folder)
    assert dataset.counts() == {"glass": 12, "paper": 12}
    assert {s.split for s in dataset.samples} == {"train", "val"}


def test_labels_come_from_a_map_and_never_from_folder_names(image_folder: Path) -> None:
    (image_folder / "glass").rename(image_folder / "Flaschen")
    dataset = open_dataset(image_folder)
    assert dataset.counts() == {"paper": 12}
    assert dict(dataset.left_out) == {"Flaschen": 12}
    mapped = open_dataset(image_folder, {"Flaschen": "glass", "paper": None})
    assert mapped.counts() == {"glass": 12}


def test_folder_without_a_known_label_says_what_it_found_and_what_to_do(image_folder: Path) -> None:
    (image_folder / "glass").rename(image_folder / "Flaschen")
    (image_folder / "paper").rename(image_folder / "Zeitung")
    with pytest.raises(DatasetError, match=r"Flaschen \(12\).*--label-map"):
        open_dataset(image_folder)


def test_empty_and_missing_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no image in it"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "none")


def test_splits_csv_is_read_with_groups_licence_and_suspects(image_folder: Path) -> None:
    (image_folder / "splits.csv").write_text(
        "path,label,split,group,label_suspect,licence\n"
        "glass/00.png,glass,train,g1,0,CC0\n"
        "paper/00.png,paper,val,g2,1,CC0\n"
    )
    dataset = open_dataset(image_folder)
    assert [(s.label, s.split, s.group, s.suspect) for s in dataset.samples] == [
        ("glass", "train", "g1", False),
        ("paper", "val", "g2", True),
    ]
    assert dataset.licence == "CC0"
    with pytest.raises(DatasetError, match="no image in split 'test'"):
        dataset.select("test")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,split\n", "column missing: label"),
        ("path,label,split\nglass/99.png,glass,train\n", "line 2: no such image"),
        ("path,label,split\nglass/00.png,wood,train\n", "no image has a known label"),
    ],
)
def test_bad_splits_csv_names_file_and_line(image_folder: Path, text: str, complaint: str) -> None:
    (image_folder / "splits.csv").write_text(text)
    with pytest.raises(DatasetError, match=complaint):
        open_dataset(image_folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": "wood"}'])
def test_bad_label_map_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(DatasetError):
        read_label_map(tmp_path / "map.json")
    good = {"Flaschen": "glass", "Rest": None}
    (tmp_path / "map.json").write_text(json.dumps(good))
    assert read_label_map(tmp_path / "map.json") == good


def test_a_licence_is_named_only_where_its_text_stands(image_folder: Path) -> None:
    for text, name in (
        ("ALL RIGHTS RESERVED. INCLUDING BUT NOT LIMITED TO SUBMITTING", "LICENSE"),
        ("The MIT License. Permission is hereby granted", "MIT"),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0"),
    ):
        (image_folder / "LICENSE").write_text(text)
        assert open_dataset(image_folder).licence == name


def test_a_table_saved_by_a_spreadsheet_is_read(image_folder: Path) -> None:
    (image_folder / "splits.csv").write_text(
        "path,label,split\nglass/00.png, glass,train\n", encoding="utf-8-sig"
    )
    assert len(open_dataset(image_folder).samples) == 1


@pytest.mark.parametrize("held", ["valid", "Validation", "val"])
def test_folders_of_splits_are_read_as_public_sets_name_them(
    image_folder: Path, tmp_path: Path, held: str
) -> None:
    for split in ("Train", held, "test"):
        shutil.copytree(image_folder, tmp_path / "whole" / split)
    dataset = open_dataset(tmp_path / "whole")
    assert {s.name.split("/")[0]: s.split for s in dataset.samples} == {
        "Train": "train",
        held: "val",
        "test": "test",
    }


def test_folders_of_splits_are_found_within_the_folder_that_an_archive_wraps_them_into(
    image_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "validation", "test"):
        shutil.copytree(image_folder, tmp_path / "whole" / "set-0a1b2c" / split)
    (tmp_path / "whole" / "SOURCE.md").write_text("Licence: MIT License")
    dataset = open_dataset(tmp_path / "whole")
    assert {(s.name.split("/")[1], s.split) for s in dataset.samples} == {
        ("train", "train"),
        ("validation", "val"),
        ("test", "test"),
    }
    assert (dataset.labels(), dataset.licence, dataset.drawn) == ({"glass", "paper"}, "MIT", False)


def test_sets_of_the_same_name_stay_apart(image_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / image_folder.name
    shutil.copytree(image_folder, other)
    both = merge([open_dataset(image_folder), open_dataset(other)])
    assert len({s.group for s in both.samples}) == len(both.samples) == 48
    assert both.drawn  # nobody named a val part
    # The very name that the second set would take.
    namesake = tmp_path / f"{image_folder.name}-2"
    shutil.copytree(image_folder, namesake)
    three = merge([open_dataset(p) for p in (image_folder, namesake, other)])
    assert len({s.group for s in three.samples}) == len(three.samples) == 72


def test_without_a_val_folder_val_is_drawn_from_train_and_never_from_test(
    image_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "whole" / split)
    found = {(s.name.split("/")[0], s.split) for s in open_dataset(tmp_path / "whole").samples}
    assert found == {("train", "train"), ("train", "val"), ("test", "test")}


def test_a_split_is_read_however_it_is_written(image_folder: Path) -> None:
    names = sorted(p.relative_to(image_folder).as_posix() for p in image_folder.rglob("*.png"))[:3]
    rows = [
        f"{name},glass,{split}\n"
        for name, split in zip(names, (" Train", "VALID", "night"), strict=True)
    ]
    (image_folder / "index.csv").write_text("path,label,split\n" + "".join(rows))
    assert [s.split for s in open_dataset(image_folder / "index.csv").samples] == [
        "train",
        "val",
        "night",
    ]


def test_a_set_is_named_after_its_folder_wherever_one_stands(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image_folder)
    assert open_dataset(Path()).name == image_folder.name


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            "path,label\nmüll.jpg,glass\n".encode("latin-1"),
            "not a readable table .* save it as CSV in UTF-8",
        ),
        ("path,label\na.jpg,glass\n".encode("utf-16"), "not a readable table"),
        (b"path,label\na.jpg\n", "line 2: path or label missing"),
        (b"path;label\na.jpg;glass\n", "column missing: label, path; save it with commas"),
        (b'path,label\n"' + b"x" * 140_000, "not a readable table"),
    ],
    ids=["latin-1", "utf-16", "short row", "semicolons", "open quote"],
)
def test_a_table_that_is_none_is_an_error_that_names_it(
    tmp_path: Path, data: bytes, complaint: str
) -> None:
    (tmp_path / "index.csv").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"index\.csv.*{complaint}"):
        open_dataset(tmp_path / "index.csv")


def test_names_that_are_no_utf_8_are_images_like_others(image_folder: Path) -> None:
    first = next(image_folder.rglob("*.png"))
    first.rename(first.with_name(os.fsdecode(b"m\xfcll.png")))
    assert len(open_dataset(image_folder).digest()) == 64


@pytest.mark.parametrize(
    ("sizes", "val"),
    [([3], 0), ([1, 1], 1), ([90] + [1] * 10, 10), ([1] * 10, 2)],
    ids=["one group", "two images", "one large", "single images"],
)
def test_every_label_keeps_something_to_train_on(sizes: list[int], val: int) -> None:
    samples = [
        Sample(Path(), f"{group}-{i}", "glass", "", f"g{group}")
        for group, size in enumerate(sizes)
        for i in range(size)
    ]
    assert sum(s.split == "val" for s in split_by_group(samples, 0.2)) == val


def test_images_that_come_later_hardly_move_the_split() -> None:
    many = [Sample(Path(str(i)), f"{i:04}", "glass", "", f"g{i}") for i in range(400)]
    before = {s.name: s.split for s in split_by_group(many[:380], 0.2)}
    after = {s.name: s.split for s in split_by_group(many, 0.2)}
    assert sum(before[name] != after[name] for name in before) <= 12
    assert 0.15 < sum(side == "val" for side in after.values()) / 400 < 0.25


def test_digest_changes_with_an_image_and_not_with_the_place(
    image_folder: Path, tmp_path: Path
) -> None:
    first = open_dataset(image_folder).digest()
    moved = image_folder.rename(tmp_path / "elsewhere")
    assert open_dataset(moved).digest() == first
    (moved / "glass" / "00.png").write_bytes((moved / "glass" / "01.png").read_bytes())
    assert open_dataset(moved).digest() != first


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=60))
def test_no_group_is_on_both_sides_of_a_split(pairs: list[tuple[str, int]]) -> None:
    samples = [
        Sample(Path(str(i)), f"{i:03}", label, "", f"g{group}")
        for i, (label, group) in enumerate(pairs)
    ]
    split = split_by_group(samples, 0.3)
    sides: dict[str, set[str]] = {}
    for sample in split:
        sides.setdefault(sample.group, set()).add(sample.split)
    assert all(len(side) == 1 for side in sides.values())
    assert split == split_by_group(reversed(samples), 0.3)


def test_an_index_written_on_windows_is_read(image_folder: Path) -> None:
    rows = [
        "path,label",
        *(
            f"{p.parent.name}\\{p.name},{p.parent.name}"
            for p in sorted(image_folder.rglob("*.png"))
        ),
    ]
    (image_folder / "index.csv").write_text("\r\n".join(rows))
    dataset = read_index(image_folder / "index.csv")
    assert dataset.counts() == {"glass": 12, "paper": 12}
    assert dataset.samples[0].name == "glass/00.png"


def test_files_that_are_no_images_are_reported_by_suffix(image_folder: Path) -> None:
    for i in range(3):
        (image_folder / "glass" / f"{i}.heic").write_bytes(b"from a telephone")
    assert dict(open_dataset(image_folder).left_out) == {".heic files": 3}
    for path in image_folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"no image in it; found 3 \.heic"):
        open_dataset(image_folder)


def test_an_index_may_name_images_anywhere(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = ["path,label", *(f"{p},{p.parent.name}" for p in sorted(image_folder.rglob("*.png")))]
    (tmp_path / "elsewhere" / "index.csv").write_text("\n".join(rows))
    dataset = read_index(tmp_path / "elsewhere" / "index.csv")
    assert dataset.counts() == {"glass": 12, "paper": 12}
    assert dataset.samples[0].name == str(image_folder / "glass" / "00.png")
