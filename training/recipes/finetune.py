"""Fine-tune a classifier on labelled images, from teachers' answers too if there are any.

Read it top to bottom.

AdamW, warm-up and cosine decay, label smoothing, mixup and CutMix, items laid on other floors, a
moving average of the weights. What each of them is worth: docs/training.md. What is kept is the
moving average after the last epoch: no epoch is picked by its val figure, so the val figure stays
honest. Does not export, quantise or score: those are commands of their own.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic_core import PydanticSerializationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs import load
from training import checkpoint
from training.config import RecipeConfig, TrainConfig
from training.data import (
    NO_LABEL,
    BackgroundSwap,
    Batches,
    Images,
    open_outliers,
    open_training_data,
    repeats,
    stream,
)
from training.models import Classifier, build
from training.teachers import Teachers
from training.warmstart import warm_start
from vision.datasets import Dataset, Sample
from vision.errors import ConfigError
from vision.files import write_atomically
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec, preprocess
from vision.taxonomy import MATERIALS_1

WARM_START_IMAGES = 128
# A GPU's epoch may take a second, and a checkpoint of everything half of one: they are this far
# apart at least.
CHECKPOINT_SECONDS = 10.0

log = logging.getLogger(__name__)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero.

    Untrained weights make them, and they make a step 10 to 50 times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(
            False
        )  # it holds for the whole thread, and others count on such numbers


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that train together, each on its share of every batch.

    Attributes:
        rank: 0..count-1; rank 0 writes the run folder.
        count: of all workers.
        report: called with each history row, after its checkpoint is on disk.
    """

    rank: int = 0
    count: int = 1
    report: Callable[[dict[str, Any]], None] = lambda row: None


@no_denormals()
def finetune(config: TrainConfig, worker: Worker = Worker()) -> dict[str, Any]:
    """Train, or continue a run that was stopped, and return its last history row.

    Leaves in `config.out`: config.json, history.jsonl (one line an epoch), checkpoint.pt.

    Args:
        config: what to train.
        worker: of several, torch's process group being set up; all must see the same `config.out`.

    Raises:
        ConfigError: the folder holds a run of another configuration.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.recipe.batch_size < 2 * worker.count:
        raise ConfigError(
            f"recipe.batch_size: {config.recipe.batch_size} leaves {worker.count} workers under "
            "two each"
        )
    Classifier(config.model.name, 1)  # a wrong name is said before images are rendered
    cv2.setNumThreads(1)  # images are made beside torch, which has the cores
    device = _device(config)
    run = config.out
    document = _document(config)
    if worker.rank > 0:
        # rank 0 renders what the simulator is asked for, the others read it
        torch.distributed.barrier()
    train, val = open_training_data(config.data, config.seed, run / "images")
    labels = MATERIALS_1.ordered(train.labels())
    outliers = open_outliers(config.data, labels, "train", config.seed, run / "outliers")
    if worker.rank == 0 and worker.count > 1:
        torch.distributed.barrier()
    spec = config.model.preprocess()
    recipe = config.recipe

    torch.manual_seed(config.seed)
    seen = train.samples + outliers.samples
    images = Images(seen)
    images.read_all()
    val_x_nhwc = prepare(val.samples, spec)
    bf16 = device.type == "cuda" or bf16_is_fast() if recipe.bf16 == "auto" else recipe.bf16
    teachers = _load_teachers(config, labels, device)
    answer = Teachers(teachers, recipe.teacher_temperature, device, bf16) if teachers else None
    from_bundle = config.model.weights.endswith(".onnx")
    model = build(
        config.model.name,
        len(labels),
        config.model.dropout,
        "scratch" if from_bundle else config.model.weights,
    )
    if from_bundle:
        some = range(0, len(train.samples), max(1, len(train.samples) // WARM_START_IMAGES))
        x_some = torch.from_numpy(np.concatenate([preprocess(images[i], spec) for i in some]))
        warm_start(model, labels, Path(config.model.weights), x_some)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = [module for stage in model.stages()[: recipe.freeze_stages] for module in stage]
    for module in frozen:
        module.requires_grad_(False)
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
    )
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe),
        lr=recipe.learning_rate,
        fused=device.type == "cuda" or None,
    )
    loss_of = nn.CrossEntropyLoss(
        weight=_label_weights(train, labels).to(device) if recipe.class_weighted else None,
        label_smoothing=recipe.label_smoothing,
    )

    history: list[dict[str, Any]] = []
    key = checkpoint.recipe_key(config, train, val, outliers)
    if (state := checkpoint.load(run)) is not None:
        if state["recipe_key"] != key:
            raise ConfigError(
                f"{run}: holds a run of another configuration. Delete it, or name another --out."
            )
        history = state["history"]
        if len(history) < recipe.epochs:
            model.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
        log.info("continuing %s after epoch %d of %d", run, len(history), recipe.epochs)
    if worker.rank == 0:
        write_atomically(run / "config.json", document)
        _write_history(run, history)  # a kill may have come between checkpoint and history

    targets_n = np.array([labels.index(s.label) if s.label in labels else NO_LABEL for s in seen])
    # An image of no label is trained towards "any of them".
    # Source: Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
    # 2019.
    rows = torch.cat([torch.eye(len(labels)), torch.full((1, len(labels)), 1 / len(labels))]).to(
        device
    )
    val_targets_n = np.array([labels.index(s.label) for s in val.samples])
    console = Console(stderr=True, quiet=worker.rank > 0)
    swap = None
    if recipe.background_swap:
        watcher = partial(
            track, description="cutting out", console=console, disable=not console.is_terminal
        )
        of_samples = [s.label if s.label in labels else None for s in seen]
        swap = BackgroundSwap(images, of_samples, config.model.size_px, config.seed, watcher)
    shown_n = np.concatenate(
        [repeats(config.data, train.samples), np.ones(len(outliers.samples), dtype=np.int64)]
    )
    batches = Batches(
        images, targets_n, spec, recipe, config.seed, swap, shown_n, (worker.rank, worker.count)
    )
    steps_per_epoch = batches.steps
    saved_at = float("-inf")
    with _progress(console) as progress:
        bar = progress.add_task(
            "training",
            total=recipe.epochs * steps_per_epoch,
            note="",
            completed=len(history) * steps_per_epoch,
        )
        first = len(history)
        coming = stream(
            batches,
            range(first, recipe.epochs),
            _loader_workers(config, device),
            device.type == "cuda",
        )
        for epoch in range(first, recipe.epochs):
            started = time.perf_counter()
            cpu_started = time.process_time()
            losses = []
            torch.manual_seed(_mix(config.seed, epoch))  # dropout; continued runs draw the same
            mixing = np.random.default_rng([config.seed, epoch, 2])
            model.train()
            head_alone = epoch < recipe.freeze_backbone_epochs
            if epoch in (first, recipe.freeze_backbone_epochs):  # what learns has changed
                model.backbone.requires_grad_(not head_alone)
                for module in frozen:
                    module.requires_grad_(False)
                learner = DistributedDataParallel(model) if worker.count > 1 else model
            for module in [model.backbone] if head_alone else frozen:
                module.eval()
            for step, (x, y) in enumerate(islice(coming, steps_per_epoch)):
                for group in optimizer.param_groups:
                    now = _schedule(epoch + step / steps_per_epoch, recipe)
                    group["lr"] = recipe.learning_rate * group["share"] * now
                y_nk = rows[y.to(device, non_blocking=True)]
                mixed = x.to(device, non_blocking=True)
                share = 1.0
                if epoch < recipe.epochs - recipe.mixup_off_epochs:
                    mixed, share = _mixed(mixed, recipe, mixing)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits, _ = learner(mixed)
                    loss = share * loss_of(logits, y_nk) + (1 - share) * loss_of(
                        logits, y_nk.flip(0)
                    )
                    if answer is not None:
                        taught = _distance(logits, answer(mixed), recipe.teacher_temperature)
                        loss = (1 - recipe.teacher_weight) * loss + recipe.teacher_weight * taught
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                average.update_parameters(model)
                losses.append(loss.detach())
                told = (
                    f" loss {history[-1]['train_loss']:.3f}" if history else ""
                )  # this epoch's waits for the GPU
                progress.update(bar, advance=1, note=f"epoch {epoch + 1}/{recipe.epochs}{told}")
            kept = average.module if recipe.ema_decay else model
            logits_nk = predict_logits(kept, val_x_nhwc, device)
            row = {
                "epoch": epoch + 1,
                "train_loss": round(float(torch.stack(losses).mean()), 5),
                "val_accuracy": round(float((logits_nk.argmax(1) == val_targets_n).mean()), 5),
                "val_loss": round(
                    float(
                        nn.functional.cross_entropy(
                            torch.from_numpy(logits_nk), torch.from_numpy(val_targets_n)
                        )
                    ),
                    5,
                ),
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - cpu_started, 1),
            }
            history.append(row)
            if worker.rank > 0:
                worker.report(row)
                continue
            last = epoch + 1 == recipe.epochs
            if last or time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                state = {
                    "recipe_key": key,
                    "labels": list(labels),
                    "history": history,
                    "kept": kept.state_dict(),
                }
                if (
                    not last
                ):  # a finished run is not continued, and is a quarter as large without these
                    state |= {"model": model.state_dict(), "average": average.state_dict()}
                    state |= {"optimizer": optimizer.state_dict()}
                checkpoint.save(run, state)
                saved_at = time.monotonic()
            _write_history(run, history)
            console.print(
                f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  "
                f"val accuracy {row['val_accuracy']:.3f}  {row['seconds']:.0f} s",
                highlight=False,
            )
            worker.report(row)
    return history[-1]


def load_trained(
    run: Path, map_location: str = "cpu"
) -> tuple[Classifier, tuple[str, ...], TrainConfig]:
    """Return (model in evaluation mode, labels, configuration) of a finished or running run.

    Raises:
        ConfigError: the folder holds no run, or one of a version with other settings.
    """
    state = checkpoint.load(run)
    if state is None or not (run / "config.json").is_file():
        raise ConfigError(
            f"{run}: no training run there. Make one with 'binsight train --out {run}'."
        )
    config = load(
        TrainConfig, run / "config.json"
    )  # JSON is YAML; a key of an earlier version is reported by its name
    labels = tuple(state["labels"])
    model = Classifier(config.model.name, len(labels), config.model.dropout)
    model.load_state_dict(state["kept"])
    return model.to(map_location).eval(), labels, config


def prepare(samples: tuple[Sample, ...], spec: PreprocessSpec) -> Pixels:
    """Return images as network input: uint8, n x height x width x 3.

    Raises:
        DatasetError: some cannot be read; the message names them.
    """
    images = Images(samples, 0)
    images.read_all()
    return np.concatenate([preprocess(pixels, spec) for pixels in images])


def predict_logits(model: nn.Module, x_nhwc: Pixels, device: torch.device) -> NDArray[np.float32]:
    """Return float32 logits, images x labels, in evaluation mode and full precision."""
    model.eval()
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(x).to(device))[0].float()
            for x in np.array_split(x_nhwc, -(-len(x_nhwc) // 32))
        ]
        return np.asarray(torch.cat(rows).cpu().numpy(), dtype=np.float32)


def _write_history(run: Path, history: list[dict[str, Any]]) -> None:
    write_atomically(
        run / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode()
    )


def _document(config: TrainConfig) -> bytes:
    try:
        return config.model_dump_json(indent=2).encode()
    except PydanticSerializationError as error:
        raise ConfigError(
            "data, model, out: a path is not UTF-8, and the run's settings could not be kept"
        ) from error


def _device(config: TrainConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch sees no GPU; use auto or cpu")
    use_gpu = config.device != "cpu" and torch.cuda.is_available()
    if use_gpu:  # the same seed gives the same figures, at some cost of time
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if use_gpu else "cpu")


def bf16_is_fast() -> bool:
    """Return whether this CPU has matrix units for bfloat16 (AMX), and torch uses them.

    AVX512-BF16 alone does not pay: on an AMD EPYC that has it an epoch took 15 s, in float32 11.
    """
    amx = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return amx and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def _loader_workers(config: TrainConfig, device: torch.device) -> int:
    if config.loader_workers is not None:
        return config.loader_workers
    return max(1, len(os.sched_getaffinity(0)) - 1) if device.type == "cuda" else 0


def _load_teachers(
    config: TrainConfig, labels: tuple[str, ...], device: torch.device
) -> list[tuple[Classifier, int]]:
    """Return the networks of the finished runs that are named, each with the side of its input in pixels."""
    models: list[tuple[Classifier, int]] = []
    for run in config.teachers:
        model, its_labels, its_config = load_trained(run)
        if its_labels != labels:
            raise ConfigError(
                f"teachers: {run} knows {', '.join(its_labels)}; this run's labels are "
                f"{', '.join(labels)}"
            )
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        models.append((model, its_config.model.size_px))
    return models


def _mixed(x_nhwc: Tensor, recipe: RecipeConfig, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Return a batch mixed with itself in reverse, and the share that each image keeps of itself.

    Source: Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
    """
    if recipe.cutmix and rng.random() < recipe.cutmix:
        height, width = x_nhwc.shape[1:3]
        cut = np.sqrt(1 - rng.beta(1, 1))
        cut_h = int(height * cut)
        cut_w = int(width * cut)
        top = int(rng.integers(height - cut_h + 1))
        left = int(rng.integers(width - cut_w + 1))
        mixed = x_nhwc.clone()
        mixed[:, top : top + cut_h, left : left + cut_w] = x_nhwc.flip(0)[
            :, top : top + cut_h, left : left + cut_w
        ]
        return mixed, 1 - cut_h * cut_w / (height * width)
    if recipe.mixup_alpha:
        share = float(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha))
        return share * x_nhwc.float() + (1 - share) * x_nhwc.flip(0).float(), share
    return x_nhwc, 1.0


def _distance(logits: Tensor, target_nk: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the teachers' softened answer, scaled back by the temperature."""
    student = torch.log_softmax(logits.float() / temperature, 1)
    return nn.functional.kl_div(student, target_nk, reduction="batchmean") * temperature**2


def _parameter_groups(model: Classifier, recipe: RecipeConfig) -> list[dict[str, Any]]:
    # Biases and normalisation are not decayed.
    # Source: He et al., "Bag of Tricks for Image Classification with CNNs", CVPR 2019, section 3.1.
    stages: list[list[nn.Module]] = [*model.stages(), [model.head]]
    staged = {id(p) for stage in stages for module in stage for p in module.parameters()}
    groups = []
    for depth, stage in enumerate(reversed(stages)):
        parameters = [p for module in stage for p in module.parameters() if p.requires_grad]
        if (
            depth == len(stages) - 1
        ):  # what belongs to the network and to no stage of it, such as a class token
            parameters += [p for p in model.parameters() if id(p) not in staged]
        share = recipe.layer_decay ** max(
            depth - 1, 0
        )  # the head learns at full rate, as the stage before it
        for some, decay in (
            ([p for p in parameters if p.ndim > 1], recipe.weight_decay),
            ([p for p in parameters if p.ndim <= 1], 0.0),
        ):
            if some:
                groups.append({"params": some, "weight_decay": decay, "share": share})
    return groups


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
