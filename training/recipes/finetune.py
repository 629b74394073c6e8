"""Fine-tune a torchvision classifier on labelled pictures. Read it from top to bottom.

AdamW, warm-up and cosine decay, label smoothing, mixup, a moving average of the weights. What is kept is the moving
average after the last epoch: no epoch is picked by its val figure, so the val figure stays honest.
Does not export, quantise or judge: those are commands of their own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import checkpoint
from training.config import RecipeConfig, TrainConfig
from training.data import Pictures, epoch_batches, open_training_data
from training.models import Classifier, build
from training.warmstart import warm_start
from vision.bundle import write_atomically
from vision.datasets import Dataset
from vision.errors import ConfigError
from vision.preprocess import PreprocessSpec, preprocess
from vision.taxonomy import MATERIALS_1

WARM_START_PICTURES = 128

log = logging.getLogger(__name__)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero: untrained weights make them, and they make a step 10 to 50 times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # it holds for the whole thread, and others count on such numbers


@no_denormals()
def finetune(config: TrainConfig) -> dict[str, Any]:
    """Train, or continue a run that was stopped, and return its last history row.

    Leaves in `config.out`: config.json, history.jsonl (one line an epoch), checkpoint.pt.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config)
    run = config.out
    train, val = open_training_data(config.data, config.seed, run / "pictures")
    labels = MATERIALS_1.ordered(train.labels())
    spec, recipe = config.model.preprocess(), config.recipe

    torch.manual_seed(config.seed)
    pictures, val_pictures = Pictures(train.samples), Pictures(val.samples)
    from_bundle = config.model.weights.endswith(".onnx")
    model = build(
        config.model.name, len(labels), config.model.dropout, "scratch" if from_bundle else config.model.weights
    )
    if from_bundle:
        some = range(0, len(pictures), max(1, len(pictures) // WARM_START_PICTURES))
        x_some = torch.from_numpy(np.concatenate([preprocess(pictures[i], spec) for i in some]))
        warm_start(model, labels, Path(config.model.weights), x_some)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    loss_of = nn.CrossEntropyLoss(
        weight=_label_weights(train, labels).to(device) if recipe.class_weighted else None,
        label_smoothing=recipe.label_smoothing,
    )

    history: list[dict[str, Any]] = []
    key = checkpoint.recipe_key(config, train, val)
    if (state := checkpoint.load(run)) is not None:
        if state["recipe_key"] != key:
            raise ConfigError(f"{run}: holds a run of another configuration. Delete it, or name another --out.")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        log.info("continuing %s after epoch %d of %d", run, len(history), recipe.epochs)
    write_atomically(run / "config.json", config.model_dump_json(indent=2).encode())

    targets_n = np.array([labels.index(s.label) for s in train.samples])
    val_targets_n = np.array([labels.index(s.label) for s in val.samples])
    steps_per_epoch = len(range(0, len(pictures) - 1, recipe.batch_size))
    console = Console(stderr=True)
    with _progress(console) as progress:
        bar = progress.add_task(
            "training", total=recipe.epochs * steps_per_epoch, note="", completed=len(history) * steps_per_epoch
        )
        for epoch in range(len(history), recipe.epochs):
            started, cpu_started, losses = time.perf_counter(), time.process_time(), []
            torch.manual_seed(_mix(config.seed, epoch))  # dropout; continued runs draw the same
            mixing = np.random.default_rng([config.seed, epoch, 2])
            model.train()
            batches = epoch_batches(pictures, targets_n, spec, recipe.batch_size, (config.seed, epoch), recipe.augment)
            for step, (x, y) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * _schedule(epoch + step / steps_per_epoch, recipe)
                x_nhwc, y_n = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
                share = float(mixing.beta(recipe.mixup_alpha, recipe.mixup_alpha)) if recipe.mixup_alpha else 1.0
                mixed = share * x_nhwc.float() + (1 - share) * x_nhwc.flip(0).float() if share < 1 else x_nhwc
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                    logits, _ = model(mixed)
                    loss = share * loss_of(logits, y_n) + (1 - share) * loss_of(logits, y_n.flip(0))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                average.update_parameters(model)
                losses.append(float(loss.detach()))
                progress.update(bar, advance=1, note=f"epoch {epoch + 1}/{recipe.epochs} loss {np.mean(losses):.3f}")
            kept = average.module if recipe.ema_decay else model
            logits_nk = predict_logits(kept, val_pictures, spec, device)
            row = {
                "epoch": epoch + 1,
                "train_loss": round(float(np.mean(losses)), 5),
                "val_accuracy": round(float((logits_nk.argmax(1) == val_targets_n).mean()), 5),
                "val_loss": round(
                    float(nn.functional.cross_entropy(torch.from_numpy(logits_nk), torch.from_numpy(val_targets_n))), 5
                ),
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - cpu_started, 1),
            }
            history.append(row)
            checkpoint.save(
                run,
                {
                    "recipe_key": key,
                    "labels": list(labels),
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "kept": kept.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": history,
                },
            )
            write_atomically(run / "history.jsonl", "".join(json.dumps(r) + "\n" for r in history).encode())
            console.print(
                f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  "
                f"val accuracy {row['val_accuracy']:.3f}  {row['seconds']:.0f} s",
                highlight=False,
            )
    return history[-1]


def load_trained(run: Path, map_location: str = "cpu") -> tuple[Classifier, tuple[str, ...], TrainConfig]:
    """Return (model in evaluation mode, labels, configuration) of a finished or running run.

    Raises:
        ConfigError: the folder holds no run.
    """
    state = checkpoint.load(run)
    if state is None or not (run / "config.json").is_file():
        raise ConfigError(f"{run}: no training run there. Make one with 'binsight train --out {run}'.")
    config = TrainConfig.model_validate_json((run / "config.json").read_bytes())
    labels = tuple(state["labels"])
    model = Classifier(config.model.name, len(labels), config.model.dropout)
    model.load_state_dict(state["kept"])
    return model.to(map_location).eval(), labels, config


def predict_logits(
    model: nn.Module, pictures: Pictures, spec: PreprocessSpec, device: torch.device
) -> np.ndarray[Any, Any]:
    """Return float32 logits, pictures x labels, in evaluation mode and full precision."""
    model.eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 32):
            x = np.concatenate([preprocess(pictures[i], spec) for i in range(start, min(start + 32, len(pictures)))])
            rows.append(model(torch.from_numpy(x).to(device))[0].float().cpu().numpy())
    return np.concatenate(rows)


def _device(config: TrainConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch sees no GPU; use auto or cpu")
    use_gpu = config.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    # Biases and normalisation are not decayed.
    # Source: He et al., "Bag of Tricks for Image Classification with CNNs", CVPR 2019, section 3.1.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _label_weights(train: Dataset, labels: tuple[str, ...]) -> Tensor:
    counts = train.counts()
    weights = np.array([counts[label] for label in labels], dtype=np.float64) ** -0.5
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def _schedule(epoch: float, recipe: RecipeConfig) -> float:
    """Return the learning rate as a share of the peak: linear warm-up, then half a cosine down to a hundredth."""
    if epoch < recipe.warmup_epochs:
        return float((epoch + 0.02) / (recipe.warmup_epochs + 0.02))
    done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(done, 1.0))))


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip
