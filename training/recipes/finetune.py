"""Fine-tune a classifier on labelled images, from teachers' answers too if there are any.

Read it top to bottom: set up, train an epoch, validate, keep.

AdamW, warm-up and cosine decay, label smoothing, mixup and CutMix, items laid on other floors, a
moving average of the weights. What each of them is worth: docs/training.md. What is kept is the
moving average after the last epoch: no epoch is picked by its val figure, so the val figure stays
honest. Does not export, quantise or score: those are commands of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import cv2
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.batches import TrainingData, open_data, stream
from training.config import TrainConfig
from training.device import ALONE, Worker, choose_device, loader_workers, no_denormals, use_bf16
from training.models import Classifier, predict_logits
from training.optimize import (
    distillation_loss,
    epoch_seed,
    label_weights,
    mixing,
    parameter_groups,
    schedule,
)
from training.progress import step_bar
from training.runs import Row, Run, config_document, recipe_key
from training.teachers import Teachers, load_teachers
from training.warmstart import first_weights
from vision.errors import ConfigError

MAX_GRADIENT_NORM = 5.0
# A GPU's epoch may take a second, and a checkpoint of everything half of one: they are this far
# apart at least.
CHECKPOINT_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """What learns, and by what.

    Attributes:
        model: the network, on `device`.
        frozen: modules of it that keep their first weights.
        average: moving average of the model's weights.
        kept: the network that is validated and kept: the average's, if there is one.
        optimizer: of the model's parameters.
        loss: of logits and target probabilities, batch x labels both.
        target_rows: float32, target probabilities of each label, then those of no label.
        teachers: what the network follows beside the labels, if anything.
        device: where all this is.
        bf16: whether to compute in bfloat16.
        schedule: of the optimizer's learning rate, stepped after each batch.
    """

    model: Classifier
    frozen: Sequence[nn.Module]
    average: AveragedModel
    kept: nn.Module
    optimizer: torch.optim.AdamW
    loss: nn.CrossEntropyLoss
    target_rows: Tensor
    teachers: Teachers | None
    device: torch.device
    bf16: bool
    schedule: LRScheduler


@no_denormals()
def finetune(config: TrainConfig, worker: Worker = ALONE) -> Row:
    """Train, or continue a run that was stopped, and return its last history row.

    Leaves in `config.out`: config.json, history.jsonl (one line an epoch), checkpoint.pt.

    Args:
        config: what to train.
        worker: of several, torch's process group being set up; all must see the same `config.out`.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    recipe = config.recipe
    _set_up_process(config, worker)
    run = Run(config.out)
    document = config_document(config)
    console = Console(stderr=True, quiet=worker.rank > 0)
    data = open_data(config, run, worker, console)
    trainer = set_up(config, data)
    key = recipe_key(config, data.train, data.val, data.outliers)
    history = _continue(run, key, trainer, recipe.epochs)
    if worker.rank == 0:
        run.begin(document, history)
    first = len(history)
    epochs = range(first, recipe.epochs)
    workers = loader_workers(config, trainer.device)
    coming = stream(data.batches, epochs, workers, pin=trainer.device.type == "cuda")
    steps = data.batches.steps
    saved_at = float("-inf")
    with step_bar(console, recipe.epochs * steps, first * steps) as advance:
        for epoch in epochs:
            started = time.perf_counter()
            cpu_started = time.process_time()
            if epoch in (first, recipe.freeze_backbone_epochs):  # what learns has changed
                learner = _learner(config, trainer, epoch, worker)
            these = islice(coming, steps)
            note = _note(epoch, recipe.epochs, history)
            loss = train_epoch(config, trainer, learner, epoch, these, partial(advance, note))
            row = {
                "epoch": epoch + 1,
                "train_loss": round(loss, 5),
                **validate(trainer, data),
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - cpu_started, 1),
            }
            history.append(row)
            if worker.rank == 0:
                last = epoch + 1 == recipe.epochs
                if last or time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                    run.save(_state(trainer, key, data.labels, history, last))
                    saved_at = time.monotonic()
                run.write_history(history)
                console.print(
                    f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  "
                    f"val accuracy {row['val_accuracy']:.3f}  {row['seconds']:.0f} s",
                    highlight=False,
                )
            worker.report(row)
    return history[-1]


def set_up(config: TrainConfig, data: TrainingData) -> Trainer:
    """Build the network with its first weights, and everything that trains it."""
    recipe = config.recipe
    torch.manual_seed(config.seed)
    device = choose_device(config)
    bf16 = use_bf16(config, device)
    teachers = load_teachers(config, data.labels, device)
    model = first_weights(config.model, data.labels, data.images, len(data.train.samples))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = [module for stage in model.stages()[: recipe.freeze_stages] for module in stage]
    if recipe.freeze_norms:
        frozen += [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in frozen:
        module.requires_grad_(False)
    weight = label_weights(data.train, data.labels).to(device) if recipe.class_weighted else None
    # An image of no label is trained towards "any of them".
    # Source: Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
    # 2019.
    labels = len(data.labels)
    target_rows = torch.cat([torch.eye(labels), torch.full((1, labels), 1 / labels)])
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda" or None)
    follow = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    return Trainer(
        model=model,
        frozen=frozen,
        average=average,
        kept=average.module if recipe.ema_decay else model,
        optimizer=optimizer,
        loss=nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.label_smoothing),
        target_rows=target_rows.to(device),
        teachers=Teachers(teachers, recipe.teacher_temperature, device, bf16) if teachers else None,
        device=device,
        bf16=bf16,
        schedule=schedule(optimizer, recipe, data.batches.steps),
    )


def train_epoch(
    config: TrainConfig,
    trainer: Trainer,
    learner: nn.Module,
    epoch: int,
    batches: Iterator[tuple[Tensor, Tensor]],
    advance: Callable[[], None],
) -> float:
    """Train on the batches of an epoch, and return their mean loss.

    Args:
        config: of the run.
        trainer: what learns.
        learner: its model, or that model on several workers.
        epoch: from 0.
        batches: uint8 pixels, batch x height x width x 3, and int64 targets.
        advance: called after each batch.
    """
    recipe = config.recipe
    # Mixing and dropout draw from it, in a continued run as in one that was not stopped.
    torch.manual_seed(epoch_seed(config.seed, epoch))
    mix = mixing(recipe)
    mixes = epoch < recipe.epochs - recipe.mixup_off_epochs
    trainer.model.train()
    head_alone = epoch < recipe.freeze_backbone_epochs
    for module in [trainer.model.backbone] if head_alone else trainer.frozen:
        module.eval()
    losses = []
    for x_nhwc, targets in batches:
        y_nk = trainer.target_rows[targets.to(trainer.device, non_blocking=True)]
        x_nchw = x_nhwc.to(trainer.device, non_blocking=True).float().permute(0, 3, 1, 2)
        if mixes:
            x_nchw, y_nk = mix(x_nchw, y_nk)
        loss = _loss(config, trainer, learner, x_nchw.permute(0, 2, 3, 1), y_nk)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trainer.model.parameters(), MAX_GRADIENT_NORM)
        trainer.optimizer.step()
        trainer.schedule.step()
        trainer.average.update_parameters(trainer.model)
        losses.append(loss.detach())
        advance()
    return float(torch.stack(losses).mean())


def validate(trainer: Trainer, data: TrainingData) -> Row:
    """Return val_accuracy and val_loss of the weights that are kept."""
    logits_nk = predict_logits(trainer.kept, data.val_x_nhwc, trainer.device)
    loss = nn.functional.cross_entropy(
        torch.from_numpy(logits_nk), torch.from_numpy(data.val_targets_n)
    )
    return {
        "val_accuracy": round(float((logits_nk.argmax(1) == data.val_targets_n).mean()), 5),
        "val_loss": round(float(loss), 5),
    }


def _set_up_process(config: TrainConfig, worker: Worker) -> None:
    """Say what cannot work before any image is rendered, and share the cores."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.recipe.batch_size < 2 * worker.count:
        raise ConfigError(
            f"recipe.batch_size: {config.recipe.batch_size} leaves {worker.count} workers under "
            "two each"
        )
    Classifier(config.model.name, 1)  # raises if there is no such network
    choose_device(config)
    cv2.setNumThreads(1)  # images are made beside torch, which has the cores


def _continue(run: Run, key: str, trainer: Trainer, epochs: int) -> list[Row]:
    """Load what an earlier process left, and return the history up to there."""
    state = run.resumable(key)
    if state is None:
        return []
    history: list[Row] = state["history"]
    if len(history) < epochs:
        trainer.model.load_state_dict(state["model"])
        trainer.average.load_state_dict(state["average"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.schedule.load_state_dict(state["schedule"])
    log.info("continuing %s after epoch %d of %d", run.folder, len(history), epochs)
    return history


def _learner(config: TrainConfig, trainer: Trainer, epoch: int, worker: Worker) -> nn.Module:
    """Set which weights learn from this epoch on, and return the model, on all workers."""
    trainer.model.backbone.requires_grad_(epoch >= config.recipe.freeze_backbone_epochs)
    for module in trainer.frozen:
        module.requires_grad_(False)
    return DistributedDataParallel(trainer.model) if worker.count > 1 else trainer.model


def _loss(
    config: TrainConfig, trainer: Trainer, learner: nn.Module, x_nhwc: Tensor, y_nk: Tensor
) -> Tensor:
    """Return the loss of a batch, a scalar: by its labels, and by the teachers' answer to it."""
    recipe = config.recipe
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.bf16):
        logits, _ = learner(x_nhwc)
        loss: Tensor = trainer.loss(logits, y_nk)
        if trainer.teachers is not None:
            target_nk = trainer.teachers(x_nhwc)
            taught = distillation_loss(logits, target_nk, recipe.teacher_temperature)
            loss = (1 - recipe.teacher_weight) * loss + recipe.teacher_weight * taught
    return loss


def _note(epoch: int, epochs: int, history: list[Row]) -> str:
    """Return what the progress bar says; the loss of this epoch would wait for the GPU."""
    last_loss = f" loss {history[-1]['train_loss']:.3f}" if history else ""
    return f"epoch {epoch + 1}/{epochs}{last_loss}"


def _state(
    trainer: Trainer, key: str, labels: tuple[str, ...], history: list[Row], last: bool
) -> dict[str, Any]:
    """Return what the checkpoint holds.

    A finished run is not continued, and is a quarter as large without what learns.
    """
    state: dict[str, Any] = {
        "recipe_key": key,
        "labels": list(labels),
        "history": history,
        "kept": trainer.kept.state_dict(),
    }
    if not last:
        state |= {
            "model": trainer.model.state_dict(),
            "average": trainer.average.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "schedule": trainer.schedule.state_dict(),
        }
    return state
