"""Parts of a recipe's step: mixing of a batch, losses, parameter groups, learning-rate schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.config import RecipeConfig
from training.models import Classifier
from vision.datasets import Dataset


def mixed(x_nhwc: Tensor, recipe: RecipeConfig, rng: np.random.Generator) -> tuple[Tensor, float]:
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
        out = x_nhwc.clone()
        out[:, top : top + cut_h, left : left + cut_w] = x_nhwc.flip(0)[
            :, top : top + cut_h, left : left + cut_w
        ]
        return out, 1 - cut_h * cut_w / (height * width)
    if recipe.mixup_alpha:
        share = float(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha))
        return share * x_nhwc.float() + (1 - share) * x_nhwc.flip(0).float(), share
    return x_nhwc, 1.0


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
    """Return the optimizer's groups: weight decay, and the share of the learning rate by stage.

    Biases and normalisation are not decayed.
    Source: He et al., "Bag of Tricks for Image Classification with CNNs", CVPR 2019, section 3.1.
    """
    stages: list[list[nn.Module]] = [*model.stages(), [model.head]]
    staged = {id(p) for stage in stages for module in stage for p in module.parameters()}
    groups = []
    for depth, stage in enumerate(reversed(stages)):
        parameters = [p for module in stage for p in module.parameters() if p.requires_grad]
        # What belongs to the network and to no stage of it, such as a class token.
        if depth == len(stages) - 1:
            parameters += [p for p in model.parameters() if id(p) not in staged]
        # The head learns at full rate, as the stage before it.
        share = recipe.layer_decay ** max(depth - 1, 0)
        for some, decay in (
            ([p for p in parameters if p.ndim > 1], recipe.weight_decay),
            ([p for p in parameters if p.ndim <= 1], 0.0),
        ):
            if some:
                groups.append({"params": some, "weight_decay": decay, "share": share})
    return groups


def schedule(epoch: float, recipe: RecipeConfig) -> float:
    """Return the learning rate as a share of the peak: linear warm-up, then half a cosine.

    The cosine ends at a hundredth.
    """
    if epoch < recipe.warmup_epochs:
        return float((epoch + 0.02) / (recipe.warmup_epochs + 0.02))
    done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(done, 1.0))))


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of torch's random numbers in an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
