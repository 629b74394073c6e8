"""The weights that training begins from; from a bundle it needs no network and no weights file.

An exported graph has its batch normalisation folded into the convolutions before it, and an int8
graph has rounded weights. Both are undone as far as they can be: weights are dequantised, and each
normalisation is set up again from the statistics of some images so that the network computes what
it did before and can be trained.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from training.config import ModelConfig
from training.data import Images
from training.models import Classifier, build
from vision.bundle import read_manifest
from vision.errors import ConfigError
from vision.preprocess import preprocess

# Images that a bundle's normalisation is set up again from.
WARM_START_IMAGES = 128


def first_weights(
    config: ModelConfig, labels: tuple[str, ...], images: Images, labelled: int
) -> Classifier:
    """Return a network with the weights that training begins from.

    Args:
        config: which network, and which weights.
        labels: of the training.
        images: a bundle's normalisation is set up again from some of them.
        labelled: how many of the images, from the first on, have a label.

    Raises:
        ConfigError: no such network or weights, or weights of another network.
    """
    bundle = Path(config.weights) if config.weights.endswith(".onnx") else None
    weights = "scratch" if bundle else config.weights
    model = build(config.name, len(labels), config.dropout, weights)
    if bundle:
        some = range(0, labelled, max(1, labelled // WARM_START_IMAGES))
        spec = config.preprocess()
        x_nhwc = torch.from_numpy(np.concatenate([preprocess(images[i], spec) for i in some]))
        warm_start(model, labels, bundle, x_nhwc)
    return model


def warm_start(model: Classifier, labels: tuple[str, ...], bundle: Path, x_nhwc: Tensor) -> None:
    """Load a bundle's weights into a model of the same network, in place.

    Args:
        model: freshly built.
        labels: of the model; rows of the head are copied for labels that the bundle knows.
        bundle: float or int8.
        x_nhwc: uint8 images of the model's input size, from which normalisation statistics are
            taken; 64 or more.

    Raises:
        ConfigError: the bundle is of another network.
    """
    manifest = read_manifest(bundle)
    weights = _initializers(bundle)
    with torch.no_grad():
        for number, (name, convolution, norm) in enumerate(_folded_pairs(model.backbone, bundle)):
            weight = weights.get(f"backbone.{name}.weight")
            bias = weights.get(f"backbone.{name}.weight_bias")
            if weight is None or bias is None or weight.shape != tuple(convolution.weight.shape):
                raise ConfigError(
                    f"model.weights: {bundle} is of another network: it has no fitting {name}"
                )
            if number == 0 and manifest.preprocess.colour_order == "bgr":  # training reads RGB
                weight = np.ascontiguousarray(weight[:, ::-1])
            convolution.weight.copy_(torch.from_numpy(weight))
            norm.bias.copy_(torch.from_numpy(bias))
            norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
        for row, label in enumerate(labels):
            if label in manifest.labels:
                source = manifest.labels.index(label)
                model.head.weight[row] = torch.from_numpy(weights["head.weight"][source])
                model.head.bias[row] = float(weights["head.bias"][source])
        _renormalise(model, x_nhwc)


def _initializers(bundle: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float weights of a graph by name, dequantised where they are int8."""
    graph = onnx.load(str(bundle)).graph
    raw = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = {
        name.removesuffix(".half"): array.astype(np.float32)
        for name, array in raw.items()
        if array.dtype.kind == "f"
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in raw:
            value, scale, zero = (raw[name].astype(np.float32) for name in node.input)
            shape = (-1,) + (1,) * (value.ndim - 1) if scale.size > 1 else ()
            name = node.output[0].removesuffix("_DequantizeLinear_Output")
            weights[name] = (value - zero.reshape(shape)) * scale.reshape(shape)
    return weights


def _folded_pairs(backbone: nn.Module, bundle: Path) -> list[tuple[str, Any, Any]]:
    """Return (name, convolution, the normalisation that follows it).

    Torchvision registers them in that order.
    """
    modules = [
        (n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ]
    pairs = [
        (name, module, after)
        for (name, module), (_, after) in pairwise(modules)
        if isinstance(module, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    ]
    if not pairs or len(modules) != 2 * len(pairs):
        raise ConfigError(
            "model.weights: only networks in which batch normalisation follows every convolution "
            f"start from {bundle}"
        )
    return pairs


def _renormalise(model: Classifier, x_nhwc: Tensor) -> None:
    """Give every normalisation the statistics of its input.

    And undo them in its scale and shift.
    """
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[norm] = (inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3)))

    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    model.eval()
    model(x_nhwc)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, variance = seen[norm]
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)
        norm.running_mean = mean.clone()
        norm.running_var = variance.clone()
