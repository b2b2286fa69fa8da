"""Measures against their definitions written out, and budgets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.channels.graphs import RandomNet
from updp_rt.channels import ChannelError, trace
from updp_rt.channels.importance import fpgm, lamp, magnitude, score_inputs
from updp_rt.channels.layout import count_params
from updp_rt.channels.masks import choose_masks

X = torch.randn(2, 3, 5, 4, dtype=torch.float64)


@pytest.fixture
def net() -> RandomNet:
    steps = [("conv3", 0, 0, 7), ("norm", 1, 0, 0), ("conv", 2, 0, 6), ("add", 3, 0, 0), ("conv", 4, 0, 5)]
    return RandomNet(steps, "flatten", (5, 4)).double().eval()


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (4, 6), (3, 1, 1, 1)])
def test_measures_are_what_they_are_defined_to_be(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    slices = [weight[:, i].flatten() for i in range(shape[1])]
    squares = [float((s**2).sum()) for s in slices]
    assert magnitude(weight).tolist() == pytest.approx([float(s.abs().sum()) for s in slices])
    assert lamp(weight).tolist() == pytest.approx([s / sum(o for o in squares if o >= s) for s in squares])
    distances = [sum(float((s - o).norm()) for o in slices) for s in slices]
    assert fpgm(weight).tolist() == pytest.approx(distances, abs=1e-6)


def test_hrank_is_the_mean_rank_of_feature_maps() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = Maps()
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(3)[:, :, None, None])
        model.first.bias.zero_()
    low = torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 5.0))
    image = torch.stack([torch.zeros(5, 4), low, torch.randn(5, 4)])[None]
    scores = score_inputs(model, trace(model, image), "hrank", [image, image])
    assert scores["second"].tolist() == [0, 1, 4]


def test_hrank_leaves_the_model_as_it_is(net: RandomNet) -> None:
    net.train()
    net.parts[1].eval()  # a norm that stays frozen while the rest is trained
    modes = [module.training for module in net.modules()]
    score_inputs(net, trace(net, X), "hrank", [X])
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_local_budget_drops_the_lowest_of_every_layer(net: RandomNet) -> None:
    found = trace(net, X)
    scores = score_inputs(net, found, "magnitude")
    masks = choose_masks(found, scores, 0.5, scope="local")
    for name, mask in masks.items():
        units = len(np.unique(found.consumers[name].channels))
        each = len(mask) // units
        assert (~mask).sum() == units // 2 * each
        if not mask.all():
            _, index = np.unique(found.consumers[name].channels, return_inverse=True)
            totals = np.bincount(index, scores[name])[index]  # of all pixels of a flattened channel
            assert totals[~mask].max() <= totals[mask].min()
    # Pixels of one flattened channel stay together.
    assert all(len(set(pixels)) == 1 for pixels in masks["fc"].reshape(5, 20).tolist())


def test_global_budget_and_limits(net: RandomNet) -> None:
    found = trace(net, X)
    scores = score_inputs(net, found, "lamp")
    total = sum(parameter.numel() for parameter in net.parameters())
    for constrained in (False, True):
        masks = choose_masks(found, scores, 0.3, constrained=constrained, limits={"fc": 0.2, "parts.*": 0.5})
        assert count_params(found, masks) <= 0.7 * total
        assert (~masks["fc"]).sum() <= 0.2 * len(masks["fc"])
        assert all((~m).sum() <= 0.5 * len(m) for n, m in masks.items() if n.startswith("parts"))
        with pytest.raises(ChannelError, match=r"90% of the parameters cannot be removed, \d+% can"):
            choose_masks(found, scores, 0.9, constrained=constrained)


class Forked(nn.Module):
    """Channels that two layers read, which save unlike numbers of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.small, self.large = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return torch.cat([self.small(y), self.large(y)], 1)


@pytest.mark.parametrize("seed", range(5))
def test_no_masks_of_as_few_parameters_lose_less(seed: int) -> None:
    """Against all masks there are, at every budget at which the global choice just fits; until a limit is reached."""
    draw = np.random.default_rng(seed)
    found = trace(Forked(), torch.randn(1, 3, 6, 5))
    scores = {name: draw.random(4) for name in ("small", "large")}

    def lost(masks: dict[str, np.ndarray]) -> float:
        return sum(float(scores[name][~mask].sum()) for name, mask in masks.items())

    def all_masks(coupled: bool) -> list[dict[str, np.ndarray]]:
        each = [np.array(bits) for bits in product([True, False], repeat=4) if any(bits)]
        pairs = [(one, one) for one in each] if coupled else product(each, each)
        return [{"small": one, "large": other} for one, other in pairs]

    for constrained in (False, True):
        for amount in np.linspace(0.02, 0.6, 30):
            masks = choose_masks(found, scores, float(amount), constrained=constrained)
            if any(mask.sum() == 1 for mask in masks.values()):
                break
            params = count_params(found, masks)
            as_few = [each for each in all_masks(constrained) if count_params(found, each) <= params]
            assert lost(masks) <= min(map(lost, as_few)) + 1e-12
        assert amount > 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amount": 1.0}, "from 0 to below 1"),
        ({"scope": "layer"}, "unknown scope 'layer': choose among local, global"),
        ({"limits": {"nothing": 0.5}}, "'nothing' matches no layer; layers are"),
        ({"limits": {"fc": 1.5}}, "limit of 'fc' is a share"),
    ],
)
def test_settings_that_make_no_sense(net: RandomNet, settings: dict, message: str) -> None:
    found = trace(net, X)
    with pytest.raises(ChannelError, match=message):
        choose_masks(found, score_inputs(net, found, "fpgm"), **{"amount": 0.5, **settings})


def test_unknown_measure_and_missing_images(net: RandomNet) -> None:
    found = trace(net, X)
    with pytest.raises(ChannelError, match="choose among magnitude, lamp, fpgm, hrank"):
        score_inputs(net, found, "taylor")
    with pytest.raises(ChannelError, match="needs images"):
        score_inputs(net, found, "hrank")
