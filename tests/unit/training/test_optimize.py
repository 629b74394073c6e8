"""Parts of a training step: the learning rate of each stage and step, and what mixing does."""

import pytest

torch = pytest.importorskip("torch")

from training.config import RecipeConfig, TrainConfig
from training.models import build
from training.optimize import mixing, parameter_groups, schedule

NETWORKS = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "vit_b_16", "efficientnet_b0"]


@pytest.mark.parametrize("name", [*NETWORKS, "timm:tf_efficientnet_lite0"])
def test_every_parameter_is_trained_exactly_once(name: str) -> None:
    model = build(name, 3, 0.0, "scratch")
    groups = parameter_groups(model, TrainConfig().recipe)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "timm:tf_efficientnet_lite0"])
def test_each_stage_learns_slower_than_the_next_and_the_head_like_the_last(name: str) -> None:
    model = build(name, 3, 0.0, "scratch")
    recipe = RecipeConfig(layer_decay=0.5, learning_rate=1.0, weight_decay=0.1)
    groups = parameter_groups(model, recipe)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    stages = [[p for m in modules for p in m.parameters()] for modules in model.stages()]
    rates = [{rate[id(p)] for p in parameters} for parameters in stages if parameters]
    assert rates == [{0.5 ** (len(rates) - 1 - i)} for i in range(len(rates))]
    assert {rate[id(p)] for p in model.head.parameters()} == {1.0}
    assert all(decay[id(p)] == (0.1 if p.ndim > 1 else 0.0) for p in model.parameters())


@pytest.mark.parametrize(("warmup", "peak_at"), [(2.0, 8), (0.0, 0), (0.5, 2)])
def test_the_learning_rate_warms_up_and_falls_to_nothing_for_every_group(
    warmup: float, peak_at: int
) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [w], "lr": 10.0**-i} for i, w in enumerate(weights)])
    steps = schedule(optimizer, RecipeConfig(epochs=6, warmup_epochs=warmup), 4)
    rates = []
    for _ in range(24):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        steps.step()
    first = [rate for rate, _ in rates]
    assert [other for _, other in rates] == pytest.approx([rate / 10 for rate in first])
    assert first.index(max(first)) == peak_at
    assert max(first) == pytest.approx(1.0)
    assert first[peak_at:] == sorted(first[peak_at:], reverse=True)
    assert first[: peak_at + 1] == sorted(first[: peak_at + 1])
    assert 0 < first[-1] < 0.02


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"mixup_alpha": 0.0, "cutmix": 0.0}, "none"),
        ({"mixup_alpha": 0.8, "cutmix": 0.0}, "mixup"),
        ({"mixup_alpha": 0.8, "cutmix": 1.0}, "cutmix"),
    ],
)
def test_targets_are_mixed_as_the_images_are(settings: dict[str, float], kind: str) -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])  # the last is of no label
    images = torch.tensor([0.0, 100.0, 50.0]).reshape(3, 1, 1, 1).expand(3, 3, 40, 40)
    for _ in range(5):
        mixed, targets = mixing(RecipeConfig(**settings))(images, rows)
        assert torch.allclose(targets.sum(1), torch.ones(3))
        assert torch.allclose(mixed.mean((1, 2, 3)), 100 * targets[:, 1], atol=1e-3)
        pure = set(mixed.unique().tolist()) <= {0.0, 50.0, 100.0}
        assert pure == (kind != "mixup")
        assert torch.equal(mixed, images) == (kind == "none")
