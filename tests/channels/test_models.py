"""On timm's models: masked and exported agree for any mask, and most copies are gone."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.models.vgg import VGG
from torch import nn

from tests.channels.common import all_exports, half_masks, random_masks
from tests.conftest import relative_error
from tests.marks import slow
from updp_rt.blocks.randomize import randomize
from updp_rt.channels import mask_model, prune_channels
from updp_rt.channels.trace import trace

BOUND = 1e-12
DENSE = {"block_config": (2, 3, 4, 2)}  # its four blocks, shallower
MODELS: list[tuple[str, dict, tuple[int, int]]] = [
    ("resnet18", {}, (33, 47)),
    slow("resnet34", {"layers": (1, 2, 2, 1)}, (32, 33)),
    slow("resnet50", {"layers": (1, 2, 2, 1)}, (33, 33)),
    slow("densenet121", DENSE, (33, 33)),
    slow("mobilenetv2_100", {"depth_multiplier": 0.5}, (33, 47)),
    slow("test_efficientnet", {}, (33, 33)),
    ("convnext_atto", {}, (33, 47)),
    slow("regnetx_002", {}, (33, 47)),
    slow("regnety_002", {}, (33, 33)),
    ("vgg", {"cfg": (16, "M", 24, 32, "M", 40, "M"), "norm_layer": nn.BatchNorm2d}, (56, 71)),
    ("deit_tiny_patch16_224", {"img_size": (32, 48), "depth": 4}, (32, 48)),
    slow("dla34", {}, (64, 32)),
    slow("ghostnet_050", {}, (33, 33)),
    slow("res2net50_48w_2s", {"layers": (1, 2, 2, 1)}, (33, 33)),
]


def build(name: str, arguments: dict) -> nn.Module:
    # VGG's own widths would take a gigabyte.
    create = VGG if name == "vgg" else partial(timm.create_model, name)
    return randomize(create(num_classes=7, **arguments)).double().eval()


@pytest.mark.parametrize(("name", "arguments", "size"), MODELS)
def test_masked_and_exported_agree(name: str, arguments: dict, size: tuple[int, int]) -> None:
    model = build(name, arguments)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    found = trace(model, x)
    masks = random_masks(found, 0.5, 1)
    # Another image tells a right model from one that is right for the example alone.
    exports = all_exports(model, torch.randn_like(x[:1]), masks, found)
    with torch.no_grad():
        wanted = mask_model(model, masks)(x)
        for export, (exported, copies) in exports.items():
            assert relative_error(exported(x), wanted) < BOUND, export
            assert copies.gathered <= exports["naive"][1].gathered


@pytest.mark.parametrize(
    "name",
    ["densenet121", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "mobilenetv2_100", "regnety_002"))],
)
def test_constrained_masks_select_nothing(name: str) -> None:
    model = build(name, DENSE if name == "densenet121" else {})
    x = torch.randn(1, 3, 33, 33, dtype=torch.float64)
    result = prune_channels(model, x, constrained=True)
    assert result.error < BOUND
    assert result.naive.gathered == 0
    assert {layer.how for layer in result.layers} == {"all"}
    assert result.pruned_cost.params < result.cost.params


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_a_tenth_of_the_naive_copies_is_left_at_most(name: str) -> None:
    model = timm.create_model(name).eval()
    found = trace(model, torch.randn(1, 3, 64, 64))
    exports = all_exports(model, torch.randn(1, 3, 64, 64), half_masks(found, 0), found)
    assert exports["fewest"][1].gathered <= 0.1 * exports["naive"][1].gathered
    assert exports["fewest"][1].total < exports["naive"][1].total


@pytest.mark.slow
def test_densenet_is_exported_in_time() -> None:
    model = timm.create_model("densenet121").eval()
    start = time.process_time()  # of this process alone, however busy the machine
    result = prune_channels(model, torch.randn(1, 3, 224, 224))
    assert time.process_time() - start < 30
    assert result.error < BOUND


def test_shapes_are_those_of_the_channels_kept() -> None:
    model = build("resnet18", {})
    found = trace(model, torch.randn(1, 3, 33, 33, dtype=torch.float64))
    masks = random_masks(found, 0.5, 2)
    exported, _ = all_exports(model, torch.randn(1, 3, 33, 33, dtype=torch.float64), masks, found)["cheapest"]
    for module in exported.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean.shape == module.weight.shape == (module.num_features,)
    # A pair of layers that nothing else reads: exactly what the second keeps is made by the first.
    assert exported.layer1[0].conv1.out_channels == masks["layer1.0.conv2"].sum() == exported.layer1[0].bn1.num_features
    assert exported.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_one_mask_for_all_keeps_everything_in_one_place(name: str) -> None:
    """Masks that agree wherever channels are shared need no copy, in any order."""
    model = build(name, DENSE if name == "densenet121" else {})
    x = torch.randn(1, 3, 33, 33, dtype=torch.float64)
    found = trace(model, x)
    draw = np.random.default_rng(3).random(found.size) < 0.5
    masks = {n: draw[c.channels] for n, c in found.prunable.items() if draw[c.channels].any()}
    for export, (_, copies) in all_exports(model, x, masks, found).items():
        assert copies.gathered == 0, export


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "constrained"),
    [("regnetx_002", False), ("regnetx_002", True), ("regnety_002", True), ("resnext26ts", True)],
)
def test_groups_of_convolutions_go_as_a_whole(name: str, constrained: bool) -> None:
    """Half of them; without constraints where one layer alone reads them, since two may want different ones."""
    model = build(name, {})
    x = torch.randn(1, 3, 33, 47, dtype=torch.float64)
    result = prune_channels(model, x, scope="local", constrained=constrained)
    assert result.error < BOUND
    convs = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels}
    for conv_name, conv in convs.items():
        narrow = result.model.get_submodule(conv_name)
        assert conv.groups // 2 <= narrow.groups <= conv.groups // 2 + 1
        assert narrow.in_channels == narrow.groups * (conv.in_channels // conv.groups)
        assert narrow.weight.shape[1:] == conv.weight.shape[1:]


class Chunks(nn.Module):
    """Two halves that go different ways; how large they are its code does not say, or only an attribute, or it does."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.width, self.other = how, 6, 9
        self.first, self.second, self.third = nn.Conv2d(3, 12, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        gate, value = y.chunk(2, 1) if self.how == "chunk" else y.split(self.width if self.how == "attribute" else 6, 1)
        return torch.cat([self.second(gate.sigmoid() * value), self.third(value)], 1)


@pytest.mark.parametrize("how", ["chunk", "attribute"])
def test_halves_shrink_together(how: str) -> None:
    model = Chunks(how).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    result = prune_channels(model, x, scope="local", constrained=True)
    assert result.error < BOUND
    assert not result.notes
    assert result.model.first.out_channels == 6
    assert (result.model.width, result.model.other) == ((6, 9) if how == "chunk" else (3, 9))
    unequal = {"second": np.arange(6) < 2, "third": np.arange(6) > 2}  # one half alone would keep 2, the other 5
    result = prune_channels(model, x, masks=unequal)
    assert result.error < BOUND
    assert result.model.first.out_channels == 10


def test_halves_stay_where_their_size_is_written_out() -> None:
    model = nn.Sequential(Chunks("code"), nn.Conv2d(9, 4, 1)).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    result = prune_channels(model, x, scope="local")
    assert result.model[0].first.out_channels == 12
    assert result.model[0].width == 6
    assert result.model[1].in_channels == 5
    assert any("parts of splits all stay; without that" in note for note in result.notes)
