"""The recipe on Ray: two workers for real, one of them killed, and a search."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray.train", exc_type=ImportError)

from configs import load
from training import launch
from training.config import TrainConfig
from vision.simulator.dataset import simulator_dataset


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    simulator_dataset(root, 200, 1, ("cardboard", "organic"))
    return root


def _arguments(images: Path, *more: str) -> list[str]:
    keys = (
        f"data.root={images}",
        "model.name=resnet18",
        "model.weights=scratch",
        "model.size_px=48",
        "recipe.batch_size=16",
        "recipe.ema_decay=0.9",
        "data.outliers_simulated=0",
        "recipe.background_swap=0",
        "recipe.cutmix=0",
        "recipe.mixup_alpha=0.2",
        "recipe.warmup_epochs=1",
        "recipe.class_weighted=true",
        "recipe.freeze_stages=0",
        "recipe.layer_decay=1",
        *more,
    )
    return [word for key in keys for word in ("--set", key)]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "binsight", *arguments]


def _workers(of: int) -> list[int]:
    """Return the processes of the training workers below process `of`.

    And of no other training on this machine.
    """
    parents = {}
    workers = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                parents[int(folder.name)] = int(
                    (folder / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
            if "RayTrainWorker" in name:
                workers.append(int(folder.name))

    def below(pid: int) -> bool:
        while pid > 1 and pid != of:
            pid = parents.get(pid, 0)
        return pid == of

    return [pid for pid in workers if below(pid)]


def test_two_workers_train_together_and_outlive_a_killed_one(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    epochs = 12
    arguments = _arguments(
        images,
        f"recipe.epochs={epochs}",
        "recipe.learning_rate=0.001",
        "data.outliers_simulated=40",
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            _command("train", "--launcher", "ray", "--workers", "2", "--out", str(out), *arguments),
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 700
        before = list[str]()
        while process.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            rows = (
                (out / "history.jsonl").read_text().splitlines()
                if (out / "history.jsonl").is_file()
                else []
            )
            workers = _workers(process.pid)
            if not before and rows and len(workers) >= 2:
                os.kill(max(workers), signal.SIGKILL)
                before = rows
            threading.Event().wait(0.05)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    lines = (out / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert 0 < len(before) < epochs, "the run was over before a worker could be killed"
    assert lines[: len(before)] == before  # to the millisecond: it went on, and did not begin again
    assert [row["epoch"] for row in history] == list(
        range(1, epochs + 1)
    )  # none twice, none left out
    assert history[-1]["val_accuracy"] > 0.7  # chance is a half
    assert (out / "report.html").is_file()


def test_cores_are_shared_and_never_more_than_one_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}] * 3 + [{"Alive": True, "Resources": {}}]
    monkeypatch.setattr("training.launch.ray.nodes", lambda: nodes)
    assert [launch._cores_each({"CPU": 24.0}, n) for n in (1, 2, 3, 6, 48)] == [8, 8, 8, 4, 1]


def test_a_search_returns_its_trials_best_first_and_a_file_to_train_with(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "search"
    done = subprocess.run(
        _command(
            "tune",
            "--trials",
            "2",
            "--at-once",
            "2",
            "--out",
            str(out),
            *_arguments(images, "recipe.epochs=2"),
        ),
        capture_output=True,
        text=True,
        timeout=350,
    )
    assert done.returncode == 0, done.stderr
    trials = json.loads((out / "trials.json").read_text())
    assert len(trials) == 2
    assert trials[0]["val_accuracy"] >= trials[1]["val_accuracy"]
    best = load(TrainConfig, out / "best.yaml")
    assert best.recipe.learning_rate == pytest.approx(trials[0]["settings"]["recipe.learning_rate"])
    assert best.recipe.epochs == 2
    runs = [p for p in out.iterdir() if (p / "history.jsonl").is_file()]
    assert len(runs) == 2
    assert trials[0]["val_accuracy"] == max(
        json.loads((p / "history.jsonl").read_text().splitlines()[-1])["val_accuracy"] for p in runs
    )


def test_what_cannot_run_on_ray_is_one_line(images: Path, tmp_path: Path) -> None:
    for more, complaint in (
        (["--workers", "999"], "--workers 999: the cluster has"),
        (
            ["--workers", "2", "--set", "model.weights=/nowhere.pt"],
            "model.weights: no such file: /nowhere.pt",
        ),
    ):
        done = subprocess.run(
            _command(
                "train",
                "--launcher",
                "ray",
                "--out",
                str(tmp_path / "run"),
                *_arguments(images),
                *more,
            ),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 2, done.stderr
        assert complaint in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr
