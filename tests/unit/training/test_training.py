"""Training on simulator images: it learns, it resumes exactly, it says what is wrong."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from configs import load
from training.augment import _warp, augmented_input
from training.batches import NO_LABEL, Batches, stream
from training.config import ModelConfig, RecipeConfig, TrainConfig
from training.data import Images, open_outliers, prepare
from training.device import ALONE, Worker, bf16_is_fast
from training.models import build, predict_logits
from training.recipes.finetune import finetune
from training.runs import Run, load_trained
from vision.datasets import Sample, open_dataset
from vision.errors import ConfigError, DatasetError
from vision.preprocess import PreprocessSpec, preprocess
from vision.simulator.dataset import simulator_dataset

NETWORK = "resnet18"


def _config(settings: list[str], out: Path, *more: str) -> TrainConfig:
    return load(TrainConfig, None, [*settings, f"out={out}", *more])


@pytest.mark.parametrize(
    ("able", "used", "fast"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512", True),
        ({"amx_bf16": True}, "AVX2", False),  # torch was asked to leave it alone
        ({"avx512_bf16": True}, "AVX512", False),
        ({}, "DEFAULT", False),
    ],
)
def test_bfloat16_is_taken_where_the_cpu_has_matrix_units_for_it(
    able: dict[str, bool], used: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    assert bf16_is_fast() is fast


def test_it_learns(run: Path) -> None:
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(history) == 6
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    assert history[-1]["val_accuracy"] > 0.6  # chance is a third


def test_a_killed_run_ends_exactly_like_one_that_was_not(
    settings: list[str], tmp_path: Path
) -> None:
    shipped_kind = (  # the ingredients of the recipe that ships
        "recipe.epochs=3",
        "recipe.mixup_off_epochs=1",
        "recipe.cutmix=0.5",
        "recipe.background_swap=0.4",
        "recipe.freeze_stages=2",
        "recipe.layer_decay=0.9",
        "recipe.outlier_share=0.2",
        "recipe.freeze_backbone_epochs=1",
        "data.outliers_simulated=30",
        "threads=1",
    )
    whole = _config(settings, tmp_path / "whole", *shipped_kind)
    finetune(whole)
    arguments = ["train", "--out", str(tmp_path / "killed")]
    for key in (*settings, *shipped_kind):
        arguments += ["--set", key]
    process = subprocess.Popen(
        [sys.executable, "-m", "binsight", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "epoch   1" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    killed = whole.model_copy(update={"out": tmp_path / "killed"})
    assert 1 <= len((Run(killed.out).checkpoint() or {})["history"]) < 3
    finetune(killed)
    a = Run(whole.out).checkpoint()
    b = Run(killed.out).checkpoint()
    assert a is not None
    assert b is not None
    timeless = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in s["history"]]
        for s in (a, b)
    ]
    assert timeless[0] == timeless[1]
    assert all(torch.equal(a["kept"][name], b["kept"][name]) for name in a["kept"])


def test_a_run_of_another_configuration_is_not_continued(run: Path, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="another configuration"):
        finetune(_config(settings, run, "recipe.epochs=9"))


def test_a_run_of_another_version_is_reported_by_the_setting_that_is_strange(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").symlink_to(run / "checkpoint.pt")
    old = json.loads((run / "config.json").read_text())
    old["recipe"]["start_share"] = 0.3
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"config\.json: recipe\.start_share: unknown key"):
        load_trained(tmp_path)


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: not a readable checkpoint"):
        Run(tmp_path).checkpoint()


def test_a_set_of_outliers_that_brings_none_is_an_error_and_the_map_holds_for_it_too(
    settings: list[str], image_folder: Path, tmp_path: Path
) -> None:
    (image_folder / "paper").rename(image_folder / "Papier")
    (tmp_path / "map.json").write_text(json.dumps({"Papier": "paper", "glass": "glass"}))
    outliers = (f"data.outliers=[{image_folder}]", f"data.label_map={tmp_path / 'map.json'}")
    config = _config(settings, tmp_path / "run", *outliers).data
    names = open_outliers(config, ("glass",), "train", 0, tmp_path).samples
    assert {s.label for s in names} == {"paper"}
    with pytest.raises(
        DatasetError, match=r"data\.outliers: .*no image of another label in its split 'train'"
    ):
        open_outliers(config, ("glass", "paper"), "train", 0, tmp_path)


def test_images_of_no_label_make_the_network_doubt(
    settings: list[str], images: Path, run: Path, tmp_path: Path
) -> None:
    simulator_dataset(tmp_path / "other", 120, 3, ("cardboard", "textile", "glass"))
    more = (
        f"data.outliers=[{tmp_path / 'other'}]",
        "recipe.epochs=5",
        "recipe.learning_rate=0.001",
    )
    config = _config(
        settings, tmp_path / "run", "recipe.outlier_share=0.5", "recipe.mixup_alpha=0", *more
    )
    finetune(config)
    outliers = open_outliers(config.data, ("cardboard", "organic", "e_waste"), "val", 0, tmp_path)
    assert outliers.labels() == {"textile", "glass"}
    val = open_dataset(images).select("val")

    def certainty(folder: Path, samples: tuple[Sample, ...]) -> float:
        x_nhwc = prepare(samples, config.model.preprocess())
        logits = predict_logits(load_trained(folder)[0], x_nhwc, torch.device("cpu"))
        return float(torch.softmax(torch.from_numpy(logits), 1).max(1).values.mean())

    doubts, trusts = (certainty(tmp_path / "run", d.samples) for d in (outliers, val))
    assert doubts < trusts - 0.04
    assert doubts < certainty(run, outliers.samples)  # a network that was not shown such images


def test_a_student_follows_its_teachers_whatever_their_size(
    settings: list[str], run: Path, images: Path, tmp_path: Path
) -> None:
    other = _config(
        settings,
        tmp_path / "other",
        "model.name=efficientnet_b0",
        "model.size_px=64",
        "recipe.epochs=1",
    )
    finetune(other)
    assert load_trained(other.out)[0].head.in_features == 1280
    recipe = (
        "recipe.epochs=2",
        "recipe.teacher_weight=1.0",
        "recipe.cutmix=0.5",
        "recipe.freeze_stages=2",
        "recipe.background_swap=0.3",
    )
    student = _config(settings, tmp_path / "run", *recipe, f"teachers=[{run},{other.out}]")
    finetune(student)
    assert len((student.out / "history.jsonl").read_text().splitlines()) == 2
    alone = student.model_copy(update={"teachers": (other.out,)})
    with pytest.raises(ConfigError, match="another configuration"):  # other teachers, another run
        finetune(alone)
    three = _config(settings, tmp_path / "three", f"teachers=[{run}]", "recipe.epochs=1")
    (images_of_two := tmp_path / "two").mkdir()
    for label in ("organic", "e_waste"):
        (images_of_two / label).symlink_to(images / "images" / label)
    two = three.data.model_copy(update={"root": images_of_two})
    with pytest.raises(ConfigError, match=r"teachers: .* knows cardboard, .*this run's labels are"):
        finetune(three.model_copy(update={"data": two}))


def test_frozen_stages_keep_their_weights_and_statistics(
    settings: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = build(NETWORK, 3, 0.0, "scratch")
    torch.save(start.backbone.state_dict(), tmp_path / "w.pt")
    config = _config(
        settings,
        tmp_path / "run",
        "recipe.epochs=1",
        "recipe.freeze_stages=5",
        f"model.weights={tmp_path / 'w.pt'}",
    )
    finetune(config)
    trained, _, _ = load_trained(tmp_path / "run")
    same = {
        stage: all(
            torch.equal(a, b)
            for m, n in zip(old, new, strict=True)
            for a, b in zip(m.state_dict().values(), n.state_dict().values(), strict=True)
        )
        for stage, (old, new) in enumerate(zip(start.stages(), trained.stages(), strict=True))
    }
    assert all(same[stage] for stage in range(5))
    assert not same[5]


def _batches(images: Path, seed: int, worker: Worker = ALONE, **recipe: Any) -> Batches:
    samples = open_dataset(images).select("train").samples
    targets = np.arange(len(samples))
    targets[::7] = NO_LABEL
    settings = RecipeConfig(batch_size=16, outlier_share=0.1, **recipe)
    config = TrainConfig(recipe=settings, seed=seed)
    return Batches(Images(samples), targets, config, worker=worker)


def test_workers_together_make_exactly_the_batches_of_one(images: Path) -> None:
    whole = _batches(images, 1)
    parts = [_batches(images, 1, Worker(rank, 2)) for rank in range(2)]
    assert (
        whole.steps == parts[0].steps == parts[1].steps == whole.length // 16
    )  # a batch of one is left out
    for step in range(whole.steps):
        (x, y), (x0, y0), (x1, y1) = (batches[2, step] for batches in (whole, *parts))
        assert np.array_equal(x[0::2], x0)
        assert np.array_equal(x[1::2], x1)
        assert np.array_equal(np.concatenate([y[0::2], y[1::2]]), np.concatenate([y0, y1]))


def test_an_epoch_is_the_same_whoever_makes_it_and_covers_every_image(images: Path) -> None:
    batches = _batches(images, 0)
    state = torch.random.get_rng_state()
    in_thread, in_processes = (
        list(stream(batches, range(2), workers, pin=False)) for workers in (0, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)  # a continued run would differ by it
    assert len(in_thread) == len(in_processes) == 2 * batches.steps
    for (x, y), (x_too, y_too) in zip(in_thread, in_processes, strict=True):
        assert torch.equal(x, x_too)
        assert torch.equal(y, y_too)
    first = in_thread[: batches.steps]
    second = in_thread[batches.steps :]
    order, later = ([int(t) for _, ys in part for t in ys] for part in (first, second))
    samples = open_dataset(images).select("train").samples
    labelled = {i for i in range(len(samples)) if i % 7}
    left_out = batches.length % 16 if batches.length % 16 < 2 else 0
    assert len(labelled - set(order)) <= left_out
    assert order != later
    assert not torch.equal(first[0][0], second[0][0])
    assert not np.array_equal(_batches(images, 1)[0, 0][0], batches[0, 0][0])


def test_a_set_named_in_repeat_is_shown_so_often_and_differently(images: Path) -> None:
    samples = open_dataset(images).select("train").samples[:20]
    shown = np.array([3.0] * 5 + [1.0] * 15)
    batches = Batches(
        Images(samples),
        np.arange(20),
        TrainConfig(recipe=RecipeConfig(batch_size=30)),
        repeats_n=shown,
    )
    x, y = batches[0, 0]
    assert np.bincount(y).tolist() == shown.tolist()
    showings = x[y == 0]
    assert not np.array_equal(showings[0], showings[1])


def test_a_fraction_in_repeat_is_the_share_that_an_epoch_shows_and_epochs_differ(
    images: Path,
) -> None:
    samples = open_dataset(images).select("train").samples[:20]
    batches = Batches(
        Images(samples),
        np.arange(20),
        TrainConfig(model=ModelConfig(size_px=32), recipe=RecipeConfig(batch_size=30)),
        repeats_n=np.array([2.5] * 4 + [0.25] * 16),
    )
    epochs = [np.bincount(batches[epoch, 0][1], minlength=20) for epoch in range(20)]
    assert batches.length == 4 * 2 + 2 + 4
    assert {int(e[:4].sum()) for e in epochs} == {10}
    assert {int(e[4:].sum()) for e in epochs} == {4}
    assert sum(e[4:] for e in epochs).all()  # each is shown in some epoch


def test_a_repeat_of_no_set_is_an_error_that_names_the_sets(
    settings: list[str], images: Path, tmp_path: Path
) -> None:
    config = _config(settings, tmp_path, f"data.also=[{images}]", "data.repeat={nosuch: 2}")
    with pytest.raises(DatasetError, match=r"data\.repeat: no set is named nosuch; sets: .*images"):
        finetune(config)


def test_an_image_that_cannot_be_read_stops_training_with_its_name(
    images: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(images)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(dataset.samples[0].path.read_bytes()[:500])
    samples = (
        dataset.samples[0],
        replace(dataset.samples[1], path=broken),
        replace(dataset.samples[2], path=broken),
    )
    with pytest.raises(DatasetError, match=r"2 images cannot be read: .*broken\.jpg.*truncated"):
        Images(samples).read_all()  # before an hour of training, val too


def test_augmentation_gives_network_inputs_and_leaves_the_original_alone() -> None:
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8), (160, 120)
    )
    before = image.copy()
    for spec in (PreprocessSpec(96, 64, "stretch", "bgr"), PreprocessSpec(64, 64, "crop", "rgb")):
        differs = 0
        for seed in range(30):
            changed = augmented_input(image, spec, np.random.default_rng(seed), 1.0)
            assert (changed.shape, changed.dtype) == (
                (1, spec.height_px, spec.width_px, 3),
                np.uint8,
            )
            differs += not np.array_equal(changed, preprocess(image, spec))
        assert differs == 30
        assert np.array_equal(
            augmented_input(image, spec, np.random.default_rng(0), 0.0), preprocess(image, spec)
        )
    assert np.array_equal(image, before)


def test_augmentation_without_strength_sees_what_the_bin_sees() -> None:
    """The one warp of training and the bin's resize agree where nothing is changed.

    Not half a pixel apart.
    """
    y, x = np.mgrid[0:240, 0:320]
    smooth = np.stack([x * 255 / 319, y * 255 / 239, (x + y) * 255 / 558], -1).astype(np.uint8)
    spec = PreprocessSpec(64, 64, "stretch", "bgr")
    straight = np.array([[320 / 64, 0], [0, 240 / 64]])
    centre = np.array([160.0, 120.0])
    image = smooth
    matrix = straight
    while np.hypot(*matrix).min() >= 2:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        matrix = matrix / 2
        centre = centre / 2
    warped = _warp(image, matrix, centre, spec)
    assert np.abs(warped.astype(int) - preprocess(smooth, spec)[0].astype(int)).max() <= 2
