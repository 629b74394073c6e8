"""What a user types, and what they get when they mistype."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from vision.bundle import probe_frame
from vision.simulator.scene import render


def _binsight(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "binsight", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["export"],
        ["quantize"],
        ["evaluate"],
        ["classify"],
        ["simulate"],
        ["demo"],
        ["tune"],
        ["data"],
        ["data", "list"],
        ["data", "fetch"],
        ["data", "check"],
        ["data", "split"],
        ["edge", "run"],
        ["edge", "requeue"],
        ["edge", "bench"],
        ["hub", "serve"],
        ["hub", "aggregate"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(command: list[str], tmp_path: Path) -> None:
    done = _binsight(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert len(done.stdout) > 300


def test_bad_images_are_lines_and_not_the_end(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), probe_frame())
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1000])
    done = _binsight("classify", "a.jpg", "b.jpg", "c.jpg", "--format", "jsonl", cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [row["path"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    assert ["error" in row for row in rows] == [False, True, True]
    table = _binsight("classify", "a.jpg", "b.jpg", cwd=tmp_path)
    assert table.stdout.splitlines()[0].split()[:2] == ["a.jpg", rows[0]["label"]]
    assert "error: " in table.stdout.splitlines()[1]
    assert _binsight("classify", "b.jpg", cwd=tmp_path).returncode == 1


def test_a_name_that_is_not_utf_8_is_reported_escaped_by_every_command_and_the_rest_is_done(
    tmp_path: Path,
) -> None:
    strange = os.fsdecode(b"gr\xfcn.jpg")
    for i, label in enumerate(("glass", "paper")):
        for k in range(4):
            path = tmp_path / "set" / label / (strange if k == 0 else f"{k}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            image = cv2.imencode(".jpg", render(label, 160, 120, 10 * i + k))[1].tobytes()
            path.write_bytes(image)
    shown = r"gr\xfcn.jpg"
    for form in ("table", "jsonl"):
        done = _binsight("classify", "set", "--format", form, cwd=tmp_path)
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 8)
    table = _binsight("classify", f"set/glass/{strange}", cwd=tmp_path)
    assert table.stdout.startswith(r"set/glass/gr\udcfcn.jpg") or shown in table.stdout
    done = _binsight("data", "split", "--data", "set", cwd=tmp_path)
    assert done.returncode == 0
    assert sum(shown in line and "not UTF-8" in line for line in done.stdout.splitlines()) == 2
    assert (tmp_path / "set" / "splits.csv").read_text().count(".jpg") == 2 * 6  # path and group
    (tmp_path / "set" / "splits.csv").unlink()
    done = _binsight("data", "check", "--data", "set", cwd=tmp_path)
    assert (shown in done.stdout, "Traceback" in done.stderr) == (True, False)
    arguments = ["--data", "set", "--split", "", "--out", "report", "--predictions", "rows.jsonl"]
    done = _binsight("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 8
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 8
    assert (tmp_path / "report" / "evaluation.html").is_file()


def test_an_empty_folder_is_reported_as_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = _binsight("classify", "empty", cwd=tmp_path)
    assert (done.returncode, "no image in this folder" in done.stdout) == (1, True)
    done = _binsight(
        "train", "--set", "data.root=empty", "--set", "model.weights=scratch", cwd=tmp_path
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "error: empty: no image in it. Expected one sub-folder of images for each label."
    )


def test_wrong_bundles_are_refused_in_one_line(
    tmp_path: Path, restamp: Callable[..., Path]
) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), probe_frame())
    for bundle, complaint in (
        (
            restamp("schema.onnx", schema="binsight.bundle/99"),
            "manifest schema 'binsight.bundle/99'",
        ),
        (restamp("precision.onnx", precision="fp32"), "the manifest says fp32, the graph is int8"),
    ):
        done = _binsight("classify", "a.jpg", "--bundle", str(bundle), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert complaint in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["edge", "run", "--config", "bin.yaml"],
            "bin.yaml: camra: unknown key; known here: bin_id",
        ),
        (["hub", "serve", "--set", "prot=1"], "prot: unknown key; known here: lake, host, port"),
        (
            ["train", "--set", "recipe.epochs=many"],
            "recipe.epochs: Input should be a valid integer",
        ),
        (["edge", "run", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["export", "nowhere", "--out", "x.onnx"], "nowhere: no training run there"),
        (["evaluate", "--data", "nowhere"], "nowhere: no such folder"),
        (["evaluate"], "name the images with --data FOLDER or with --index CSV"),
        (["evaluate", "--data", "a", "--index", "b"], "one of them"),
        (["data", "check", "--data", "nowhere"], "nowhere: no such folder"),
        (["data", "fetch", "rubbish", "--out", "x"], "no public set 'rubbish'; there are trashnet"),
        (["train", "--set", "model.name=vgg99"], "torchvision has no classifier 'vgg99'"),
        (["simulate"], "nothing to do"),
        (["simulate", "--sheet", "s.xyz"], "s.xyz: could not be written"),
        (["simulate", "--out", "/proc/none", "--images", "10"], "/proc/none"),
        (
            ["edge", "run", "--set", "camera.seed=-1"],
            "camera.seed: Input should be greater than or equal to 0",
        ),
        (
            ["edge", "run", "--set", "uplink.url=hub.example.org"],
            "uplink.url: String should match pattern",
        ),
        (["hub", "serve", "--set", "token="], "write key.path=value"),
        (
            ["hub", "serve", "--set", "host=nosuch.host.invalid"],
            "choose others with --set port=... or host=...",
        ),
        (["simulate", "--sheet", "s.png", "--labels", "wood"], "labels not in taxonomy"),
        (["hub", "aggregate", "--engine", "local"], "no event in the lake yet"),
    ],
)
def test_mistakes_are_one_line_with_what_to_do(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "bin.yaml").write_text("camra: {}\n")
    done = _binsight(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bin_whose_camera_has_shown_everything_says_so(tmp_path: Path) -> None:
    run = [
        "edge",
        "run",
        "--set",
        "state=s",
        "--set",
        "camera.items=2",
        "--set",
        "camera.fps=0",
        "--set",
        "bin_id=7",
    ]
    assert "7: 2 items" in _binsight(*run, cwd=tmp_path).stdout
    again = _binsight(*run, cwd=tmp_path)
    assert again.returncode == 0
    assert "all items of this camera were shown before" in again.stderr


def test_simulator_writes_a_contact_sheet_and_a_set(tmp_path: Path) -> None:
    done = _binsight(
        "simulate",
        "--sheet",
        "s.png",
        "--out",
        "set",
        "--images",
        "20",
        "--labels",
        "glass,metal",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "s.png")).shape[0] == 2 * 180
    assert len((tmp_path / "set" / "splits.csv").read_text().splitlines()) == 21


def test_any_labelled_folder_is_measured_from_an_index_and_a_label_map(tmp_path: Path) -> None:
    _binsight(
        "simulate",
        "--out",
        "set",
        "--images",
        "40",
        "--labels",
        "glass,metal,textile",
        cwd=tmp_path,
    )
    rows = (tmp_path / "set" / "splits.csv").read_text().splitlines()[1:]
    lines = [f"set/{path},Old {label}" for path, label, *_ in (row.split(",") for row in rows)]
    (tmp_path / "index.csv").write_text(
        "\n".join(["path,label", *lines, "set/none.jpg,rubble"]) + "\n"
    )
    names = {"Old glass": "glass", "Old metal": "metal", "Old textile": "unknown", "rubble": None}
    (tmp_path / "map.json").write_text(json.dumps(names))
    done = _binsight(
        "evaluate",
        "--index",
        "index.csv",
        "--label-map",
        "map.json",
        "--out",
        "report",
        "--predictions",
        "p.jsonl",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["left_out"] == {"rubble": 1}
    assert figures["images"] + figures["unknown"]["images"] == 40
    assert {key for key, value in figures["recall"].items() if value is not None} == {
        "glass",
        "metal",
    }
    for key in (
        "accuracy_95",
        "accuracy_by_object",
        "macro_f1",
        "calibration_error",
        "coverage_at_risk",
    ):
        assert key in figures
    assert figures["ms_per_image"]["graph"] > 0
    page = (tmp_path / "report" / "evaluation.html").read_text()
    assert page.count("<svg") == 4  # confusion, risk-coverage, reliability, unknown
    assert "unknown test, AUROC" in page
    predictions = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(predictions) == 40
    unmapped = _binsight("evaluate", "--index", "index.csv", cwd=tmp_path)
    assert unmapped.returncode == 2
    assert "Map names to labels with --label-map" in unmapped.stderr


def test_a_set_is_listed_checked_and_split(tmp_path: Path) -> None:
    listed = _binsight("data", "list", cwd=tmp_path).stdout
    assert "trashnet" in listed
    assert "MIT" in listed
    assert "no shipped model may be trained on it" in listed
    for label, seed in (("glass", 0), ("metal", 50)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(10):
            cv2.imwrite(
                str(tmp_path / "photos" / label / f"{i}.jpg"), render(label, 160, 120, seed + i)
            )
    twin = tmp_path / "photos" / "metal" / "twin.jpg"
    twin.write_bytes((tmp_path / "photos" / "glass" / "3.jpg").read_bytes())
    done = _binsight("data", "check", "--data", "photos", "--json", "found.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "label conflicts: glass/3.jpg = metal/twin.jpg" in done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["summary"]["label_conflicts"] == 1
    twin.unlink()
    assert _binsight("data", "check", "--data", "photos", cwd=tmp_path).returncode == 0
    assert _binsight("data", "split", "--data", "photos", cwd=tmp_path).returncode == 0
    assert _binsight("data", "check", "--data", "photos", cwd=tmp_path).returncode == 0
    assert len((tmp_path / "photos" / "splits.csv").read_text().splitlines()) == 21
    again = _binsight("data", "split", "--data", "photos", cwd=tmp_path)
    assert again.returncode == 2
    assert "is there already" in again.stderr
