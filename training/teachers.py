"""The answer of several trained networks to the images that a student is shown.

They are finished runs of this program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.models import Classifier
from training.runs import load_trained
from vision.errors import ConfigError


class Teachers:
    """The mean answer of several trained networks, whatever the size of their inputs.

    On a GPU their many small kernels are recorded once and played back, for starting them costs
    more than running them.

    Args:
        models: the networks, in evaluation mode and on `device`, each with the side of its input in
            pixels.
        temperature: logits are divided by it.
        device: where they run.
        bf16: compute in bfloat16.
    """

    def __init__(
        self,
        models: Sequence[tuple[Classifier, int]],
        temperature: float,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self._models = models
        self._temperature = temperature
        self._device = device
        self._bf16 = bf16
        self._recorded: tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, x_nhwc: Tensor) -> Tensor:
        """Return the mean of the softened probabilities, batch x labels, for pixels in 0..255."""
        x_nhwc = x_nhwc.float()
        if self._device.type != "cuda":
            return self._answer(x_nhwc)
        if self._recorded is None:
            self._recorded = self._record(x_nhwc)
        graph, x_static, answer = self._recorded
        if x_nhwc.shape != x_static.shape:  # the last batch of an epoch
            return self._answer(x_nhwc)
        x_static.copy_(x_nhwc)
        graph.replay()
        return answer.clone()

    def _answer(self, x_nhwc: Tensor) -> Tensor:
        x_nchw = x_nhwc.permute(0, 3, 1, 2)
        answers = []
        for model, size in self._models:
            own = x_nchw
            if size != x_nchw.shape[-1]:
                smaller = size < x_nchw.shape[-1]
                own = nn.functional.interpolate(
                    x_nchw, (size, size), mode="bilinear", antialias=smaller
                )
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False
            ):
                logits = model(own.permute(0, 2, 3, 1))[0]
            answers.append(torch.softmax(logits.float() / self._temperature, 1))
        return torch.stack(answers).mean(0)

    def _record(self, x_nhwc: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        x_static = x_nhwc.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries set up at first use must not be recorded
            for _ in range(3):
                self._answer(x_static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, capture_error_mode="thread_local"
        ):  # other threads load batches meanwhile
            answer = self._answer(x_static)
        return graph, x_static, answer


def load_teachers(
    config: TrainConfig, labels: tuple[str, ...], device: torch.device
) -> list[tuple[Classifier, int]]:
    """Return the networks of the named runs, each with the side of its input in pixels.

    Raises:
        ConfigError: a folder holds no run, or one with other labels.
    """
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
