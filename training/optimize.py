"""Parts of a recipe's step: mixing of a batch, losses, parameter groups, schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torchvision.transforms import v2

from training.config import RecipeConfig
from training.models import Classifier
from vision.datasets import Dataset

# Share of the peak learning rate at which warm-up begins.
WARMUP_START = 0.02


def mixing(recipe: RecipeConfig) -> nn.Module:
    """Return what mixes a batch: CutMix for a share of the batches, mixup for the others.

    It takes float images, batch x 3 x height x width, and target probabilities, batch x labels,
    and returns both mixed. It draws from torch's global generator.
    """
    mixup = v2.MixUp(alpha=recipe.mixup_alpha) if recipe.mixup_alpha else v2.Identity()
    cutmix = v2.CutMix(alpha=1.0)
    mix: nn.Module = v2.RandomChoice([cutmix, mixup], p=[recipe.cutmix, 1 - recipe.cutmix])
    return mix


def distillation_loss(logits_nk: Tensor, target_nk: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the teachers' softened answer, a scalar.

    Args:
        logits_nk: of the student, batch x labels.
        target_nk: probabilities of the teachers, softened by the same temperature.
        temperature: the divergence is scaled back by its square.
    """
    student = torch.log_softmax(logits_nk.float() / temperature, 1)
    return nn.functional.kl_div(student, target_nk, reduction="batchmean") * temperature**2


def label_weights(train: Dataset, labels: tuple[str, ...]) -> Tensor:
    """Return the inverse square root of each label's frequency, float32, 1 on average."""
    counts = train.counts()
    weights = np.array([counts[label] for label in labels], dtype=np.float64) ** -0.5
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def parameter_groups(model: Classifier, recipe: RecipeConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups: learning rate by stage, weight decay by kind of parameter.

    Biases and normalisation are not decayed. The stages are the model's: see `group_matcher`.
    Source: He et al., "Bag of Tricks for Image Classification with CNNs", CVPR 2019, section 3.1.
    """
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
    )
    for group in groups:
        group["lr"] = recipe.learning_rate * group["lr_scale"]
    return groups


def schedule(optimizer: Optimizer, recipe: RecipeConfig, steps: int) -> LRScheduler:
    """Return the learning rate's schedule, stepped after each batch: warm-up, then a cosine to 0.

    Args:
        optimizer: its groups have the peak rates.
        recipe: epochs in all and of warm-up.
        steps: batches in an epoch.
    """
    warmup = round(recipe.warmup_epochs * steps)
    rest = max(1, recipe.epochs * steps - warmup)
    parts = [
        LinearLR(optimizer, start_factor=WARMUP_START, total_iters=warmup),
        CosineAnnealingLR(optimizer, T_max=rest),
    ]
    return SequentialLR(optimizer, parts, milestones=[warmup])


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of torch's random numbers in an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
