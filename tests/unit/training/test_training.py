"""Training on simulator pictures: it learns, it resumes exactly, it is told what is wrong."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from configs import load  # noqa: E402
from training import checkpoint  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.data import (  # noqa: E402
    FOREIGN,
    Pictures,
    ahead,
    epoch_batches,
    epoch_length,
    open_foreign_data,
)
from training.models import build  # noqa: E402
from training.recipes.finetune import finetune, load_trained, predict_logits  # noqa: E402
from vision.datasets import Sample, open_dataset  # noqa: E402
from vision.errors import ConfigError, DatasetError  # noqa: E402
from vision.simulator.dataset import simulator_dataset  # noqa: E402

NETWORK = "resnet18"


def _config(settings: list[str], out: Path, *more: str) -> TrainConfig:
    return load(TrainConfig, None, [*settings, f"out={out}", *more])


def test_it_learns(run: Path) -> None:
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(history) == 6
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[-1]["val_accuracy"] > 0.5  # chance is a third


def test_a_killed_run_ends_exactly_like_one_that_was_not(settings: list[str], tmp_path: Path) -> None:
    shipped_kind = (  # the ingredients of the recipe that ships
        "recipe.epochs=3", "recipe.calm_epochs=1", "recipe.cut_out=0.4", "recipe.freeze=2", "recipe.layer_decay=0.9",
        "recipe.foreign=0.2", "recipe.head_epochs=1", "data.foreign_simulated=30",
        "threads=1",
    )  # fmt: skip
    whole = _config(settings, tmp_path / "whole", *shipped_kind)
    finetune(whole)
    arguments = ["train", "--out", str(tmp_path / "killed")]
    for key in (*settings, *shipped_kind):
        arguments += ["--set", key]
    process = subprocess.Popen(
        [sys.executable, "-m", "binsight", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "epoch   1" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    killed = whole.model_copy(update={"out": tmp_path / "killed"})
    assert 1 <= len((checkpoint.load(killed.out) or {})["history"]) < 3
    finetune(killed)
    a, b = checkpoint.load(whole.out), checkpoint.load(killed.out)
    assert a is not None
    assert b is not None
    timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in s["history"]] for s in (a, b)]
    assert timeless[0] == timeless[1]
    assert all(torch.equal(a["kept"][name], b["kept"][name]) for name in a["kept"])


def test_a_run_of_another_configuration_is_not_continued(run: Path, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="another configuration"):
        finetune(_config(settings, run, "recipe.epochs=9"))


def test_a_run_of_another_version_is_told_by_the_setting_that_is_strange(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").symlink_to(run / "checkpoint.pt")
    old = json.loads((run / "config.json").read_text())
    old["recipe"]["start_share"] = 0.3
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"config\.json: recipe\.start_share: unknown key"):
        load_trained(tmp_path)


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: not a readable checkpoint"):
        checkpoint.load(tmp_path)


def test_a_set_of_foreign_things_that_brings_none_is_an_error_and_the_map_holds_for_it_too(
    settings: list[str], picture_folder: Path, tmp_path: Path
) -> None:
    (picture_folder / "paper").rename(picture_folder / "Papier")
    (tmp_path / "map.json").write_text(json.dumps({"Papier": "paper", "glass": "glass"}))
    foreign = (f"data.foreign=[{picture_folder}]", f"data.label_map={tmp_path / 'map.json'}")
    config = _config(settings, tmp_path / "run", *foreign).data
    names = open_foreign_data(config, ("glass",), "train", 0, tmp_path).samples
    assert {s.label for s in names} == {"paper"}
    with pytest.raises(DatasetError, match=r"data\.foreign: .*no picture of another label in its split 'train'"):
        open_foreign_data(config, ("glass", "paper"), "train", 0, tmp_path)


def test_pictures_of_no_label_make_the_network_doubt(
    settings: list[str], pictures: Path, run: Path, tmp_path: Path
) -> None:
    simulator_dataset(tmp_path / "other", 120, 3, ("cardboard", "textile", "glass"))
    more = (f"data.foreign=[{tmp_path / 'other'}]", "recipe.epochs=5", "recipe.learning_rate=0.001")
    config = _config(settings, tmp_path / "run", "recipe.foreign=0.5", "recipe.mixup_alpha=0", *more)
    finetune(config)
    foreign = open_foreign_data(config.data, ("cardboard", "organic", "e_waste"), "val", 0, tmp_path)
    assert foreign.labels() == {"textile", "glass"}
    val = open_dataset(pictures).select("val")

    def certainty(folder: Path, samples: tuple[Sample, ...]) -> float:
        logits = predict_logits(
            load_trained(folder)[0], Pictures(samples), config.model.preprocess(), torch.device("cpu")
        )
        return float(torch.softmax(torch.from_numpy(logits), 1).max(1).values.mean())

    doubts, trusts = (certainty(tmp_path / "run", d.samples) for d in (foreign, val))
    assert doubts < trusts - 0.04
    assert doubts < certainty(run, foreign.samples)  # a network that was not shown such pictures


def test_a_teacher_is_trained_first_and_its_student_follows_it(pictures: Path, tmp_path: Path) -> None:
    document = {
        "data": {"root": str(pictures)}, "out": str(tmp_path / "run"),
        "model": {"name": NETWORK, "weights": "scratch", "size_px": 48},
        "recipe": {"epochs": 2, "batch_size": 16, "teacher_weight": 1.0, "cutmix": 0.5, "freeze": 2, "cut_out": 0.3},
        "teacher": {
            "model": {"name": "efficientnet_b0", "weights": "scratch", "size_px": 64},
            "recipe": {"epochs": 1, "batch_size": 16},
        },
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(document))  # JSON is YAML
    config = load(TrainConfig, tmp_path / "c.yaml")
    finetune(config)
    _, labels, _ = load_trained(tmp_path / "run")
    taught, its_labels, _ = load_trained(tmp_path / "run" / "teacher")
    assert labels == its_labels
    assert taught.head.in_features == 1280
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2
    finetune(config)  # a finished run is left alone
    assert len((tmp_path / "run" / "teacher" / "history.jsonl").read_text().splitlines()) == 1


def test_frozen_stages_keep_their_weights_and_statistics(settings: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build(NETWORK, 3, 0.0, "scratch")
    torch.save(start.backbone.state_dict(), tmp_path / "w.pt")
    config = _config(
        settings, tmp_path / "run", "recipe.epochs=1", "recipe.freeze=5", f"model.weights={tmp_path / 'w.pt'}"
    )
    finetune(config)
    trained, _, _ = load_trained(tmp_path / "run")
    same = {
        stage: all(torch.equal(a, b) for m, n in zip(old, new, strict=True) for a, b in zip(
            m.state_dict().values(), n.state_dict().values(), strict=True))
        for stage, (old, new) in enumerate(zip(start.stages(), trained.stages(), strict=True))
    }  # fmt: skip
    assert all(same[stage] for stage in range(5))
    assert not same[5]


def test_workers_together_make_exactly_the_batches_of_one(pictures: Path) -> None:
    train = open_dataset(pictures).select("train")
    labels = sorted(train.labels())
    targets = np.array([labels.index(s.label) for s in train.samples])
    targets[::7] = FOREIGN
    spec = TrainConfig().model.preprocess()

    def batches(worker: tuple[int, int]) -> list:
        made = epoch_batches(Pictures(train.samples), targets, spec, 16, (1, 2), 0.0, foreign=0.1, worker=worker)
        return list(ahead(made))

    whole, parts = batches((0, 1)), [batches((rank, 2)) for rank in range(2)]
    assert sum(len(y) for _, y in whole) == epoch_length(targets, 0.1) // 16 * 16  # a batch of one is left out
    assert len(parts[0]) == len(parts[1])
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *parts, strict=False):
        assert np.array_equal(x[0::2], x0)
        assert np.array_equal(x[1::2], x1)
        assert np.array_equal(np.concatenate([y[0::2], y[1::2]]), np.concatenate([y0, y1]))


def test_epochs_are_equal_for_equal_keys_and_cover_every_picture(pictures: Path) -> None:
    samples = open_dataset(pictures).select("train").samples
    spec = TrainConfig().model.preprocess()
    targets = np.arange(len(samples))

    def epoch(seed: int, number: int) -> tuple[np.ndarray, list[int]]:
        batches = list(epoch_batches(Pictures(samples), targets, spec, 32, (seed, number), 1.0))
        return batches[0][0], [int(t) for _, ts in batches for t in ts]

    first, order = epoch(0, 0)
    assert sorted(order) == list(range(len(samples)))
    assert np.array_equal(first, epoch(0, 0)[0])
    assert not np.array_equal(first, epoch(0, 1)[0])
    assert epoch(1, 0)[1] != order


def test_a_picture_that_cannot_be_read_stops_training_with_its_name(pictures: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pictures)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(dataset.samples[0].path.read_bytes()[:500])
    samples = (dataset.samples[0], replace(dataset.samples[1], path=broken), replace(dataset.samples[2], path=broken))
    with pytest.raises(DatasetError, match=r"2 pictures cannot be read: .*broken\.jpg.*truncated"):
        Pictures(samples).read_all()  # before an hour of training, val too


def test_augmentation_keeps_type_and_leaves_the_original_alone() -> None:
    from training.augment import augment

    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8), (160, 120))
    before = picture.copy()
    differs = 0
    for seed in range(30):
        changed = augment(picture, np.random.default_rng(seed), 1.0)
        assert (changed.shape, changed.dtype) == (picture.shape, np.uint8)
        differs += not np.array_equal(changed, picture)
    assert np.array_equal(picture, before)
    assert differs == 30
    assert augment(picture, np.random.default_rng(0), 0.0) is picture
