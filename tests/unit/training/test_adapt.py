"""A bundle learns a place and a new label, keeps what it knew, and is refused where it does not."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from configs import load
from training.adapt import (
    IMAGES_SHOWN,
    Adaptation,
    Change,
    accept,
    adapt,
    compare,
    plan,
)
from training.batches import open_data, stream
from training.commands import app
from training.config import ModelConfig, TrainConfig
from training.device import ALONE
from training.gate import Loss
from training.recipes.finetune import set_up, train_epoch
from training.runs import Run, recipe_key
from vision.bundle import read_manifest
from vision.datasets import open_dataset
from vision.errors import BundleError, ConfigError
from vision.simulator.dataset import simulator_dataset

SHOWN = 2400
FAST = ("recipe.epochs=3", "data.outliers_simulated=0", "recipe.freeze_stages=0")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulator images of another seed, with a label that the bundle lacks."""
    root = tmp_path_factory.mktemp("sites") / "harbour"
    simulator_dataset(root, 90, 7, ("cardboard", "organic", "textile"))
    return root


@pytest.fixture(scope="module")
def done(
    bundles: tuple[Path, Path],
    site: Path,
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Adaptation:
    """An adapted bundle; the gates let pass what a tiny network of two epochs cannot reach."""
    with pytest.MonkeyPatch.context() as patch:
        for gate in ("adapt.MAX_FORGOTTEN", "gate.MAX_ACCURACY_LOSS", "gate.MAX_LABEL_LOSS"):
            patch.setattr(f"training.{gate}", 1.0)
        patch.setattr("training.adapt.IMAGES_SHOWN", SHOWN)
        out = tmp_path_factory.mktemp("adapted")
        return adapt(plan(bundles[0], site, [images], out, overrides=FAST))


def test_it_knows_the_new_label_and_its_policy_is_of_the_place(
    done: Adaptation, site: Path, images: Path
) -> None:
    manifest = read_manifest(done.bundle)
    assert manifest.labels == ("cardboard", "organic", "textile", "e_waste")
    of_place = [s for s in open_dataset(site).samples if s.split == "val"]
    assert manifest.metrics["val"]["images"] == len(of_place)
    assert manifest.lineage["initial_weights"].startswith("float.onnx sha256:")
    before = done.changes[0].before
    assert done.changes[0].after > before + 0.1  # a third of the place's items have the new label
    assert [(c.dataset, c.labels) for c in done.changes] == [
        ("harbour", "all"),
        ("harbour", "known before"),
        (images.name, "all"),
    ]


def test_what_it_says_of_before_and_after_is_what_the_bundles_answer(
    done: Adaptation, bundles: tuple[Path, Path], images: Path
) -> None:
    written = json.loads((done.bundle.parent / "adaptation.json").read_text())["changes"]
    val = open_dataset(images).select("val")
    (change,) = compare(bundles[0], done.bundle, val)
    (known,) = (c for c in written if c["dataset"] == images.name)
    assert (change.before, change.after) == (known["before"], known["after"])
    assert change.change_95[0] <= change.after - change.before <= change.change_95[1]
    assert f"{change.before:.3f}" in done.table()


@pytest.mark.parametrize(
    ("place", "rehearsal", "message"),
    [((0.4, 0.6), (0.9, 0.8), "forgets 0.100 of board"), ((0.6, 0.5), (0.9, 0.9), "is worse on")],
)
def test_a_bundle_that_forgets_or_learns_nothing_is_refused_and_kept_under_another_name(
    done: Adaptation,
    tmp_path: Path,
    place: tuple[float, float],
    rehearsal: tuple[float, float],
    message: str,
) -> None:
    bundle = tmp_path / "int8.onnx"
    shutil.copy(done.bundle, bundle)
    changes = tuple(
        Change(name, "all", 100, before, (0.0, 1.0), after, (0.0, 1.0), (-1.0, 1.0))
        for name, (before, after) in (("harbour", place), ("board", rehearsal))
    )
    with pytest.raises(BundleError, match=rf"refused-int8.onnx: {message}(?s:.*)harbour"):
        accept(replace(done, bundle=bundle, changes=changes))
    assert not bundle.exists()
    assert read_manifest(tmp_path / "refused-int8.onnx") is not None
    accept(replace(done, changes=(replace(changes[0], after=0.7), replace(changes[1], after=0.89))))


def test_place_and_rehearsal_have_equal_parts_and_settings_can_be_changed(
    bundles: tuple[Path, Path], site: Path, images: Path, tmp_path: Path
) -> None:
    config = plan(bundles[0], site, [images], tmp_path, overrides=["recipe.learning_rate=0.0003"])
    half = IMAGES_SHOWN / config.recipe.epochs / 2
    assert config.data.repeat == {"harbour": half / 72, images.name: half / 240}
    assert config.recipe.learning_rate == 0.0003
    assert (config.model.name, config.model.size_px) == ("resnet18", 48)


def test_what_would_end_an_adaptation_late_is_an_error_at_its_start(
    bundles: tuple[Path, Path], site: Path, images: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "lone"
    for label in ("cardboard", "organic", "e_waste"):
        (lone / label).mkdir(parents=True)
        shutil.copy(next(site.rglob("*.jpg")), lone / label)
    with pytest.raises(ConfigError, match=r"lone: no image in its val part.*data split"):
        plan(bundles[0], lone, [images], tmp_path / "a")
    with pytest.raises(ConfigError, match="told apart by the names"):
        plan(bundles[0], site, [site], tmp_path / "b")
    with pytest.raises(ConfigError, match="would be replaced"):
        plan(bundles[0], site, [images], bundles[0].parent)
    names = tmp_path / "names.json"
    names.write_text('{"organic": null, "kraft": "cardboard"}')
    with pytest.raises(ConfigError, match="organic would change in the sets of --rehearse"):
        plan(bundles[0], site, [images], tmp_path / "c", names)


def test_a_label_without_an_image_would_be_forgotten_and_is_asked_for(
    bundles: tuple[Path, Path], site: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no image of e_waste.*--rehearse"):
        plan(bundles[0], site, [], tmp_path, overrides=FAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "x.onnx"], "--data"),
        (["--data", "x"], "go with --from"),
        (["--from", "x.onnx", "--data", "x", "--launcher", "ray"], "--set"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert message in str(result.exception)


@pytest.mark.parametrize(("images", "refused"), [(9, False), (10, True)])
def test_int8_is_refused_for_a_label_only_with_ten_images_of_it(images: int, refused: bool) -> None:
    counts = {"glass": images, "paper": 1000}
    loss = Loss(counts, {"glass": 0.9, "paper": 0.9}, {"glass": 0.8, "paper": 0.9}, 0.001, 0.0, 0.0)
    assert loss.too_much() is refused
    assert ("over the limit" in loss.table()) is refused


@pytest.mark.parametrize(("lost", "won", "refused"), [(7, 2, False), (14, 2, True), (8, 0, True)])
def test_a_loss_on_upright_images_counts_beyond_chance_alone(
    lost: int, won: int, refused: bool
) -> None:
    same = {"glass": 0.9}
    loss = Loss({"glass": 400}, same, same, 0.0, (lost - won) / 400, (lost + won) ** 0.5 / 400)
    assert loss.too_much() is refused


def test_a_run_is_not_continued_from_another_bundle_of_the_same_name(tmp_path: Path) -> None:
    keys = []
    for number in range(2):
        weights = tmp_path / str(number) / "float.onnx"
        weights.parent.mkdir()
        weights.write_bytes(bytes([number]))
        keys.append(recipe_key(TrainConfig(model=ModelConfig(weights=str(weights)))))
    assert keys[0] != keys[1]


def test_frozen_normalisation_stays_while_the_rest_learns(
    settings: list[str], images: Path, tmp_path: Path
) -> None:
    values = [*settings, f"out={tmp_path}", "recipe.freeze_norms=true"]
    config = load(TrainConfig, None, values)
    data = open_data(config, Run(tmp_path), ALONE, Console(quiet=True))
    trainer = set_up(config, data)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    batches = islice(stream(data.batches, range(1), 0, pin=False), 2)
    train_epoch(config, trainer, trainer.model, 0, batches, lambda: None)
    after = trainer.model.state_dict()
    norms = [k for k in before if "bn" in k or "downsample.1" in k]
    assert len(norms) == 20 * 5
    assert all(torch.equal(before[k], after[k]) for k in norms)
    assert not torch.equal(before["backbone.conv1.weight"], after["backbone.conv1.weight"])
