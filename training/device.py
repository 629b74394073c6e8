"""Where training runs, and what pays there: worker, device, bfloat16, loaders, denormals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from training.config import TrainConfig
from vision.errors import ConfigError


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


ALONE = Worker()


def choose_device(config: TrainConfig) -> torch.device:
    """Return the device of a configuration.

    A GPU is set to give the same figures each time, or to take the fastest convolutions.

    Raises:
        ConfigError: cuda is asked for, and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch sees no GPU; use auto or cpu")
    use_gpu = config.device != "cpu" and torch.cuda.is_available()
    if use_gpu:
        torch.backends.cudnn.deterministic = config.deterministic
        torch.backends.cudnn.benchmark = not config.deterministic
    return torch.device("cuda" if use_gpu else "cpu")


def use_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Return whether to compute in bfloat16 on a device."""
    if config.recipe.bf16 == "auto":
        return device.type == "cuda" or bf16_is_fast()
    return config.recipe.bf16


def bf16_is_fast() -> bool:
    """Return whether this CPU has matrix units for bfloat16 (AMX), and torch uses them.

    AVX512-BF16 alone does not pay: on an AMD EPYC that has it an epoch took 15 s, in float32 11.
    """
    amx = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return amx and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def loader_workers(config: TrainConfig, device: torch.device) -> int:
    """Return how many processes make batches; 0 is a thread of this one."""
    if config.loader_workers is not None:
        return config.loader_workers
    return max(1, len(os.sched_getaffinity(0)) - 1) if device.type == "cuda" else 0


@contextmanager
def no_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero.

    Untrained weights make them, and they make a step 10 to 50 times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        # It holds for the whole thread, and others count on such numbers.
        torch.set_flush_denormal(False)
