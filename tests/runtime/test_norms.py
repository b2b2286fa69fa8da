"""Layer norms of accelerated models: fused on a GPU, here an emulated MI100, and left to torch on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm import layers
from torch import Tensor, nn

import updp_rt
from tests.runtime.test_accelerate import assert_as_good_as

BACKENDS = ("hip", "reference")


def randomized(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


def chosen(fast: nn.Module) -> dict[str, str]:
    """The backend of each fused operator, by its name."""
    return {row.operator: row.kernel.partition(":")[0] for row in updp_rt.explain(fast).rows}


NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "torch": (nn.LayerNorm(24, eps=1e-3), (3, 5, 24)),
    "no weight": (nn.LayerNorm(24, elementwise_affine=False), (7, 24)),
    "no bias": (nn.LayerNorm(24, bias=False), (2, 3, 4, 24)),
    "timm": (layers.LayerNorm(19), (3, 19)),
    "images": (layers.LayerNorm2d(24), (2, 24, 5, 3)),
}


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_alone(name: str, form: torch.memory_format) -> None:
    norm, shape = NORMS[name]
    model, x = randomized(nn.Sequential(norm)), torch.randn(shape)
    if x.dim() == 4:
        x = x.contiguous(memory_format=form)
    elif form is torch.channels_last:
        pytest.skip("rows have one layout")
    fast = updp_rt.accelerate(model, x, backends=BACKENDS)
    assert chosen(fast) == {"layer_norm": "hip"}
    assert_as_good_as(fast, model, x)
    named: Any = {"input" if type(norm) is nn.LayerNorm else "x": x}
    assert torch.equal(fast[0](**named), fast(x))
    assert fast(x).stride() == model(x).stride()


@pytest.mark.usefixtures("mi100")
def test_norms_of_other_kinds_stay() -> None:
    model = nn.Sequential(nn.LayerNorm((4, 6)), layers.LayerNormFp32(6), nn.RMSNorm(6), nn.Linear(6, 6)).eval()
    fast = updp_rt.accelerate(model, torch.randn(3, 4, 6), backends=BACKENDS)
    assert set(chosen(fast)) == {"linear"}


def block() -> tuple[nn.Module, Tensor]:
    model = timm.create_model("test_vit", img_size=32, embed_dim=24, depth=1, num_classes=7)
    return randomized(model.blocks), torch.randn(2, 5, 24)


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("change", ["weight", "bias", "eps", "replaced", "hook"])
def test_norms_before_linear_layers_are_followed(change: str) -> None:
    model, x = block()
    fast = updp_rt.accelerate(model, x, backends=BACKENDS)
    assert chosen(fast)["norm_linear"] == "hip"
    before = fast(x)
    for one in (model, fast):
        torch.manual_seed(3)
        norm: Any = one[0].norm2
        if change in ("weight", "bias"):
            getattr(norm, change).add_(1.0)
        elif change == "eps":
            norm.eps = 1.0
        elif change == "replaced":
            one[0].norm2 = randomized(nn.LayerNorm(24))
        else:
            norm.register_forward_hook(lambda module, args, y: 2 * y)
    assert_as_good_as(fast, model, x)
    assert (fast(x) - before).abs().max() > 0.1


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("drop", [nn.Dropout(0.5), nn.Tanh()], ids=repr)
def test_a_classifiers_norm_and_linear_layer_are_one(drop: nn.Module) -> None:
    model = nn.Sequential(layers.NormMlpClassifierHead(24, 7))
    model[0].drop = drop
    model, x = randomized(model), torch.randn(3, 24, 5, 4).contiguous(memory_format=torch.channels_last)
    fast = updp_rt.accelerate(model, x, backends=BACKENDS)
    kernels = chosen(fast)
    assert ("norm_linear" in kernels) == isinstance(drop, nn.Dropout)
    assert ("layer_norm" in kernels) != isinstance(drop, nn.Dropout)
    assert_as_good_as(fast, model, x)
    assert torch.allclose(fast[0](x, pre_logits=True), model[0](x, pre_logits=True), atol=1e-5)


def test_on_a_cpu_they_are_torchs_own() -> None:
    model, x = block()
    for source in (model, nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 8)).eval()):
        fast = updp_rt.accelerate(source, x, strict=True)
        explanation = updp_rt.explain(fast)
        assert not any("norm" in row.operator for row in explanation.rows)
        assert any("Norm" in name for name in explanation.unfused)
