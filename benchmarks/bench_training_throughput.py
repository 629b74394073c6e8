"""Pictures a second that training takes, against a plain torchvision script on the same cores.

The plain script is what a tutorial writes: ImageFolder, PIL, torchvision's transforms of about the
same strength (crop, turn, flips, light, blur, a hidden patch), a DataLoader with a process for each
core, the same network, optimizer and batch size, float32. In both every weight learns, from labels
alone; binsight's items on other floors are left out, for the script has none. The two take turns,
and the best turn of each counts. It prints nothing where ../shared is missing.
"""

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
import torchvision
from rich.console import Console
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from configs import load
from training.batches import open_data, stream
from training.config import TrainConfig
from training.device import ALONE, no_denormals
from training.recipes.finetune import set_up, train_epoch
from training.runs import Run
from vision.datasets import open_dataset

DATA = Path("../shared/data/trashnet")
BATCH = 32
STEPS = 8
TURNS = 3
NETWORKS = {"mobilenet_v2": 224, "timm:tf_efficientnet_lite2": 224}


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for each network."""
    if not DATA.is_dir():
        return
    with no_denormals(), TemporaryDirectory() as scratch:
        folder = _class_folders(Path(scratch))
        for name, size_px in NETWORKS.items():
            ours = _binsight(name, size_px, Path(scratch))
            theirs = _plain(name, size_px, folder)
            rates = [(next(ours), next(theirs)) for _ in range(TURNS)]
            best = [max(column) for column in zip(*rates, strict=True)]
            yield {
                "network": name,
                "size_px": size_px,
                "images_per_second": round(best[0], 2),
                "plain_script_images_per_second": round(best[1], 2),
                "times": round(best[0] / best[1], 2),
            }


def _binsight(name: str, size_px: int, scratch: Path) -> Iterator[float]:
    """Train for STEPS batches whenever asked, and yield images a second."""
    config = load(
        TrainConfig,
        None,
        [
            f"data.root={DATA}",
            "data.outliers_simulated=0",
            f"model.name={name}",
            "model.weights=scratch",
            f"model.size_px={size_px}",
            f"recipe.batch_size={BATCH}",
            "recipe.freeze_stages=0",
            "recipe.background_swap=0",
            "recipe.outlier_share=0",
        ],
    )
    data = open_data(config, Run(scratch / "run"), console=Console(quiet=True), worker=ALONE)
    trainer = set_up(config, data)
    batches = stream(data.batches, range(TURNS), 0, pin=False)
    for epoch in range(TURNS):
        some = list(islice(batches, 1))  # the first batch waits for nothing to be made ahead
        train_epoch(config, trainer, trainer.model, epoch, iter(some), lambda: None)
        started = time.perf_counter()
        train_epoch(config, trainer, trainer.model, epoch, islice(batches, STEPS), lambda: None)
        yield BATCH * STEPS / (time.perf_counter() - started)


def _plain(name: str, size_px: int, folder: Path) -> Iterator[float]:
    """Do the same as a tutorial does."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size_px, scale=(0.35, 1.0)),
            v2.RandomRotation(30),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.5, 0.05),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 2.5))], 0.3),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            v2.RandomErasing(0.4, scale=(0.01, 0.16)),
        ]
    )
    images = ImageFolder(str(folder), transform)
    loader = torch.utils.data.DataLoader(
        images, BATCH, shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True
    )
    own_name = name.removeprefix("timm:")
    model = timm.create_model(own_name, num_classes=len(images.classes)) if ":" in name else None
    model = model or torchvision.models.get_model(own_name, num_classes=len(images.classes))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    while True:
        started = 0.0
        for step, (x_nchw, target_n) in enumerate(islice(loader, STEPS + 1)):
            loss = loss_of(model(x_nchw), target_n)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 0:  # the processes have started
                started = time.perf_counter()
        yield BATCH * STEPS / (time.perf_counter() - started)


def _class_folders(scratch: Path) -> Path:
    """Link the training images into a folder for each label, as ImageFolder wants them."""
    for sample in open_dataset(DATA).select("train").samples:
        folder = scratch / "folders" / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sample.path.name).symlink_to(sample.path.resolve())
    return scratch / "folders"
