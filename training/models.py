"""Any torchvision or timm classifier by name, as one module.

Uint8 pixels in, logits and embedding out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from vision.errors import ConfigError
from vision.frames import Pixels

# Source: torchvision's ImageNet training reference; all its classification weights use these.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Images at most in one forward pass of `predict_logits`.
VALIDATION_BATCH = 32


class Classifier(nn.Module):
    """Normalisation, backbone and head in one graph.

    So that the exported network takes camera bytes.

    Args:
        name: torchvision's name of the network, or "timm:" and timm's.
        labels: number of logits.
        dropout: before the head, in training only.
    """

    mean_c: Tensor
    inverse_std_c: Tensor

    def __init__(self, name: str, labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = _network(name)
        self.head_path = _last_linear(self.backbone, name)
        last: Any = self.backbone.get_submodule(self.head_path)
        self.head = nn.Linear(last.in_features, labels)
        self.dropout = nn.Dropout(dropout)
        _replace(self.backbone, self.head_path, nn.Identity())
        own = getattr(self.backbone, "default_cfg", {})  # timm's networks bring theirs
        mean = own.get("mean", IMAGENET_MEAN)
        std = own.get("std", IMAGENET_STD)
        mean_c = 255.0 * torch.tensor(mean)
        std_c = 255.0 * torch.tensor(std)
        if (
            len(set(std)) == 1
        ):  # then int8 can take the camera's bytes as they are, if the mean is a byte too
            mean_c = torch.floor(mean_c + 0.5)
        self.register_buffer("mean_c", mean_c, persistent=False)
        self.register_buffer("inverse_std_c", 1 / std_c, persistent=False)

    def forward(self, x_nhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Classify pixels.

        Args:
            x_nhwc: uint8 (or float in 0..255, as mixing gives), batch x height x width x 3, RGB
                (see `use_bgr`).

        Returns:
            logits, batch x labels; embedding, batch x size: the input of the head.
        """
        batch, height, width, colours = x_nhwc.shape
        # Whole rows at a time: onnxruntime takes 20 times longer to subtract along an axis of
        # three.
        rows = x_nhwc.to(torch.float32).reshape(batch, height, width * colours)
        rows = (rows - self.mean_c.repeat(width)) * self.inverse_std_c.repeat(width)
        x_nchw = rows.reshape(batch, height, width, colours).permute(0, 3, 1, 2)
        embedding = torch.flatten(self.backbone(x_nchw), 1)
        return self.head(self.dropout(embedding)), embedding

    def use_bgr(self) -> None:
        """Read the colours in the camera's order from now on; what comes out stays the same."""
        first = next(m for m in self.backbone.modules() if isinstance(m, nn.Conv2d))
        with torch.no_grad():
            first.weight.copy_(first.weight.flip(1))
        self.mean_c = self.mean_c.flip(0)
        self.inverse_std_c = self.inverse_std_c.flip(0)

    def stages(self) -> list[list[nn.Module]]:
        """Return the backbone's modules in its maker's stages, from the input to the head."""
        if isinstance(features := getattr(self.backbone, "features", None), nn.Sequential):
            others = [
                m
                for m in self.backbone.children()
                if m is not features and any(True for _ in m.parameters())
            ]
            return [*([module] for module in features), *([others] if others else [])]
        if isinstance(blocks := getattr(self.backbone, "blocks", None), nn.Sequential):  # timm's
            children = list(self.backbone.children())
            at = children.index(blocks)
            before = children[:at]
            after = [m for m in children[at + 1 :] if any(True for _ in m.parameters())]
            return [before, *([module] for module in blocks), *([after] if after else [])]
        return [[module] for module in self.backbone.children()]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return what gives the stage of a parameter by its name, for timm's layer decay.

        The head is of the last stage with parameters, so that both learn at full rate. What
        belongs to no stage, such as a class token, is of the first.

        Args:
            coarse: asked for by timm; the stages are the only division there is.
        """
        stages = [[p for m in modules for p in m.parameters()] for modules in self.stages()]
        stages = [parameters for parameters in stages if parameters]
        number = {id(p): i for i, parameters in enumerate(stages) for p in parameters}
        number |= {id(p): len(stages) - 1 for p in self.head.parameters()}
        by_name = {name: number.get(id(p), 0) for name, p in self.named_parameters()}
        return by_name.__getitem__


def build(name: str, labels: int, dropout: float, weights: str) -> Classifier:
    """Build a classifier and load its backbone.

    Args:
        name: see Classifier.
        labels: see Classifier.
        dropout: see Classifier.
        weights: "scratch", "pretrained" (downloads; needs a network), or a .safetensors / .pt
            state-dict file with the library's own names; float16 is read into float32.

    Raises:
        ConfigError: unknown network, no such file, or weights of another network.
    """
    model = Classifier(name, labels, dropout)
    if weights == "scratch":
        return model
    state = _pretrained_state(name) if weights == "pretrained" else _file_state(Path(weights))
    own = model.backbone.state_dict()
    missing = sorted(k for k in own if k not in state and not k.endswith("num_batches_tracked"))
    wrong = sorted(k for k in own if k in state and own[k].shape != state[k].shape)
    if missing or wrong:
        raise ConfigError(
            f"model.weights: {weights} does not fit {name}: {len(missing)} tensors missing, "
            f"{len(wrong)} of another "
            f"shape, first {(missing + wrong)[0]}"
        )
    model.backbone.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    return model


def predict_logits(model: nn.Module, x_nhwc: Pixels, device: torch.device) -> NDArray[np.float32]:
    """Return float32 logits, images x labels, in evaluation mode and full precision.

    Args:
        model: on `device`.
        x_nhwc: uint8, images x height x width x 3, RGB.
        device: where to compute.
    """
    model.eval()
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(x).to(device))[0].float()
            for x in np.array_split(x_nhwc, -(-len(x_nhwc) // VALIDATION_BATCH))
        ]
        return np.asarray(torch.cat(rows).cpu().numpy(), dtype=np.float32)


def _network(name: str) -> nn.Module:
    library, _, own_name = name.rpartition(":")
    if library not in ("", "timm"):
        raise ConfigError(
            f"model.name: {name!r}: networks come from torchvision (its name alone) or timm "
            "(timm:NAME)"
        )
    try:
        if library:
            return timm.create_model(own_name)
        network: nn.Module = torchvision.models.get_model(own_name, weights=None)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model.name: {library or 'torchvision'} has no classifier {own_name!r}"
        ) from error
    return network


def _pretrained_state(name: str) -> dict[str, Tensor]:
    library, _, own_name = name.rpartition(":")
    try:
        if library:
            return dict(timm.create_model(own_name, pretrained=True).state_dict())
        weights = torchvision.models.get_model_weights(own_name).DEFAULT
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights: the pretrained weights of {name} could not be downloaded ({error}). "
            "Name a .safetensors or .pt file, or 'scratch'."
        ) from error


def _file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"model.weights: no such file: {path} (or 'pretrained', or 'scratch')")
    if path.suffix == ".safetensors":
        return load_file(path)
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _last_linear(backbone: nn.Module, name: str) -> str:
    linear: list[str] = [
        path for path, module in backbone.named_modules() if isinstance(module, nn.Linear)
    ]
    if not linear:
        raise ConfigError(
            f"model.name: {name} does not end in a linear layer; choose another classifier"
        )
    return linear[-1]


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
