"""What quantisation-aware training would win: the shipped network trained on with its rounding, against its float.

Needs the run of the shipped bundle (see bench_quantize) in runs/trashnet; prints nothing without it. Normalisation is
folded into the convolutions first, so that what is rounded in training is what onnxruntime rounds. Half an hour.
Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, parametrize
from torchvision.models.mobilenetv2 import InvertedResidual

from training import checkpoint
from training.data import FOREIGN, Cutouts, Pictures, ahead, epoch_batches, open_foreign_data, open_training_data
from training.evaluate import open_session
from training.export import export
from training.models import Classifier
from training.quantize import Scheme, compare, quantized_graph
from training.recipes.finetune import load_trained, no_denormals
from vision.bundle import read_bundle

RUN, OUT = Path("runs/trashnet"), Path("runs/qat")
EPOCHS, LEARNING_RATE, CALIBRATION_BATCHES = 2, 2e-5, 8


class RoundedWeight(nn.Module):
    """A weight rounded to int8, symmetric, as the quantiser will round it; the gradient passes through."""

    def __init__(self, per_channel: bool) -> None:
        super().__init__()
        self._per_channel = per_channel

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on the grid."""
        if not self._per_channel:
            scale = float(weight.detach().abs().max()) / 127
            return torch.fake_quantize_per_tensor_affine(weight, scale, 0, -127, 127)
        scales = (weight.detach().abs().flatten(1).amax(1) / 127).clamp(min=1e-9)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


class RoundedOutput:
    """A forward hook that rounds what a module gives to uint8, over the mean range of the first batches."""

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self._seen = 0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Return the output on the grid."""
        if self._seen < CALIBRATION_BATCHES:
            self._seen += 1
            self._low += (min(float(output.detach().min()), 0.0) - self._low) / self._seen
            self._high += (float(output.detach().max()) - self._high) / self._seen
            return output
        scale = max(self._high - self._low, 1e-6) / 255
        return torch.fake_quantize_per_tensor_affine(output, scale, round(-self._low / scale), 0, 255)


def measure() -> Iterator[dict[str, Any]]:
    """Yield, for weights per channel and per tensor, what int8 loses after training with the rounding."""
    if not (RUN / "float.onnx").is_file():
        return
    data, manifest = read_bundle(RUN / "float.onnx")
    _, _, config = load_trained(RUN)
    train, val = open_training_data(config.data, config.seed, RUN / "pictures")
    for per_channel in (True, False):
        folder = OUT / f"{'per-channel' if per_channel else 'per-tensor'}-{checkpoint.digest(RUN)[:12]}"
        if not (folder / "float.onnx").is_file():
            train_rounded(folder, per_channel)
            export(folder, folder / "float.onnx")
        trained_on, its_manifest = read_bundle(folder / "float.onnx")
        graph = quantized_graph(folder / "float.onnx", its_manifest, train, Scheme(per_channel=per_channel))
        for name, what in (("float, trained on", trained_on), ("int8, trained on", graph)):
            loss = compare(open_session(data, 2), open_session(what, 2), manifest, val)
            yield {
                "weights": "per channel" if per_channel else "per tensor", "graph": name, **loss.to_dict(),
                "refused": loss.too_much(),
            }  # fmt: skip


@no_denormals()
def train_rounded(folder: Path, per_channel: bool) -> None:
    """Train the shipped network for EPOCHS more with its rounding, and leave a run folder with the result."""
    model, labels, config = load_trained(RUN)
    recipe, spec = config.recipe, config.model.preprocess()
    train, _ = open_training_data(config.data, config.seed, RUN / "pictures")
    foreign = open_foreign_data(config.data, labels, "train", config.seed, RUN / "foreign")
    seen = train.samples + foreign.samples
    pictures = Pictures(seen)
    targets_n = np.array([labels.index(s.label) if s.label in labels else FOREIGN for s in seen])
    cutouts = Cutouts(pictures, [s.label if s.label in labels else None for s in seen], config.seed)
    places = _fold(model)
    for parent, at, _ in places:
        parametrize.register_parametrization(parent[at], "weight", RoundedWeight(per_channel))
    parametrize.register_parametrization(model.head, "weight", RoundedWeight(per_channel))
    for module in _rounded_outputs(model):
        module.register_forward_hook(RoundedOutput())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    rows = torch.cat([torch.eye(len(labels)), torch.full((1, len(labels)), 1 / len(labels))])
    model.train()
    for epoch in range(EPOCHS):
        batches = epoch_batches(
            pictures, targets_n, spec, recipe.batch_size, (config.seed, recipe.epochs + epoch), recipe.augment,
            cutouts, recipe.cut_out, recipe.foreign,
        )  # fmt: skip
        for x, y in ahead(batches):
            loss = loss_of(model(torch.from_numpy(x))[0], rows[torch.from_numpy(y)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    _unfold(places)
    parametrize.remove_parametrizations(model.head, "weight", leave_parametrized=False)
    state = checkpoint.load(RUN) or {}
    checkpoint.save(folder, {**state, "kept": model.state_dict()})
    (folder / "config.json").write_text((RUN / "config.json").read_text())


def _fold(model: Classifier) -> list[tuple[nn.Sequential, int, nn.BatchNorm2d]]:
    """Move every normalisation into the convolution before it; return where each is, and what it took in."""
    places = []
    for parent in [m for m in model.backbone.modules() if isinstance(m, nn.Sequential)]:
        for at in range(len(parent) - 1):
            first, second = parent[at], parent[at + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                folded: Any = fuse_conv_bn_eval(first.eval(), second.eval())
                folded.bias.requires_grad_(True)  # torch makes the shift of the normalisation a constant
                parent[at], parent[at + 1] = folded, nn.Identity()
                places.append((parent, at, second))
    return places


def _unfold(places: list[tuple[nn.Sequential, int, nn.BatchNorm2d]]) -> None:
    """Put the normalisations back, doing nothing but add the convolutions' biases: the names are the run's again."""
    for parent, at, norm in places:
        convolution: Any = parent[at]
        parametrize.remove_parametrizations(convolution, "weight", leave_parametrized=False)
        with torch.no_grad():
            norm.weight.fill_(1.0)
            norm.running_mean.zero_()  # type: ignore[union-attr]
            norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
            norm.bias.copy_(convolution.bias)
        convolution.bias = None
        parent[at + 1] = norm


def _rounded_outputs(model: Classifier) -> list[nn.Module]:
    """Return what gives an activation that onnxruntime stores in eight bits."""
    blocks = [m for m in model.backbone.modules() if isinstance(m, InvertedResidual)]
    projections = [next(m for m in reversed(list(block.conv)) if isinstance(m, nn.Conv2d)) for block in blocks]
    return [
        *(m for m in model.backbone.modules() if isinstance(m, nn.ReLU6)),
        *projections,
        *(b for b in blocks if b.use_res_connect),
    ]
