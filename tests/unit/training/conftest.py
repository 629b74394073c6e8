"""One training run on simulator images, and its bundles, for all tests here.

Torch is loaded when it is used.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import load
from vision.simulator.dataset import simulator_dataset


@pytest.fixture(scope="session", autouse=True)
def few_calibration_images() -> Iterator[None]:
    """Calibrate int8 on 16 images.

    The histograms of 128 take longer than the rest of the tests of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.quantize.CALIBRATION_IMAGES", 16)
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulator images of three labels, with both splits."""
    root = tmp_path_factory.mktemp("images")
    simulator_dataset(root, 300, 1, ("cardboard", "organic", "e_waste"))
    return root


@pytest.fixture(scope="session")
def settings(images: Path) -> list[str]:
    """Settings of a training that takes seconds; resnet18 learns from nothing within them.

    Without what only a longer training is better for.
    """
    return [
        f"data.root={images}",
        "model.name=resnet18",
        "model.weights=scratch",
        "model.size_px=48",
        "recipe.batch_size=16",
        "recipe.ema_decay=0.9",
        "recipe.mixup_alpha=0.2",
        "data.outliers_simulated=0",
        "recipe.background_swap=0",
        "recipe.cutmix=0",
        "recipe.mixup_off_epochs=0",
        "recipe.warmup_epochs=1",
        "recipe.outlier_share=0.2",
        "recipe.class_weighted=true",
        "recipe.freeze_stages=0",
        "recipe.layer_decay=1",
    ]


@pytest.fixture(scope="session")
def run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run; not to be changed."""
    from training.config import TrainConfig
    from training.recipes.finetune import finetune

    out = tmp_path_factory.mktemp("run")
    finetune(
        load(
            TrainConfig,
            None,
            [*settings, f"out={out}", "recipe.epochs=6", "recipe.learning_rate=0.001"],
        )
    )
    return out


@pytest.fixture(scope="session")
def bundles(run: Path) -> tuple[Path, Path]:
    """The run's float bundle and its int8 bundle."""
    from training.data import open_training_data
    from training.export import export
    from training.quantize import quantize
    from training.runs import load_trained

    export(run, run / "float.onnx")
    _, _, config = load_trained(run)
    train, val = open_training_data(config.data, config.seed, run / "images")
    # The gate has a test of its own; a network that saw 240 images may lose a lot to int8.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.gate.MAX_ACCURACY_LOSS", 1.0)
        patch.setattr("training.gate.MAX_LABEL_LOSS", 1.0)
        quantize(run / "float.onnx", run / "int8.onnx", train, val)
    return run / "float.onnx", run / "int8.onnx"
