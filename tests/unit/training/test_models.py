"""Any torchvision classifier by name; what does not fit is explained."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training.models import build
from vision.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2", "resnet18", "efficientnet_b0", "vit_b_16", "convnext_tiny", "densenet121"],
)
def test_any_torchvision_classifier_by_name(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 5, 0.0, "scratch")
    assert model.head.out_features == 5
    assert model.head.in_features >= 256


@pytest.mark.parametrize(
    ("name", "weights", "complaint"),
    [
        ("mobilenet_v99", "scratch", "no classifier 'mobilenet_v99'"),
        ("squeezenet1_0", "scratch", "does not end in a linear layer"),
        ("mobilenet_v3_small", "none.safetensors", r"no such file: none\.safetensors"),
    ],
)
def test_impossible_networks_and_weights_are_explained(
    name: str, weights: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(name, 5, 0.0, weights)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="does not fit mobilenet_v3_small"):
        build("mobilenet_v3_small", 5, 0.0, str(tmp_path / "w.pt"))
