"""A tuned table of its own for each test, backends that are stubs, and small models of each family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from updp_rt.backends import Backend, Prepared
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.kernels import hip
from updp_rt.ops import Problem, Weights
from updp_rt.runtime import dispatch


@pytest.fixture(autouse=True)
def _own_table(own_table: Path) -> None:
    """For all tests here."""


# Narrow and shallow: each kind of block is there, and each kind of neighbour.
_RESNET: dict[str, Any] = {"channels": (64, 32, 48, 64), "num_classes": 7}
_MOBILENET: dict[str, Any] = {"depth_multiplier": 0.5, "num_classes": 7}


def _vit(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    return timm.create_model(name, img_size=48, depth=2, num_classes=7, **options)


def _convnext(**options: object) -> nn.Module:
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=7, **options)


def merged(model: nn.Module, form: str | None = None) -> nn.Module:
    """`model` with all its prunable blocks merged, in the form named."""
    names = prunable_blocks(model)
    subnet = make_progressive(model, names).eval()
    set_lambda(subnet, 1.0)
    return merge_model(subnet, dict.fromkeys(names, form) if form else None)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: timm.create_model("resnet18", **_RESNET),
    "resnet18d": lambda: timm.create_model("resnet18d", **_RESNET),
    "resnet26": lambda: timm.create_model("resnet26", **_RESNET),
    "seresnet18": lambda: timm.create_model("seresnet18", **_RESNET),
    "mobilenetv2": lambda: timm.create_model("mobilenetv2_035", **_MOBILENET),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=7),
    "convnext": lambda: _convnext(conv_mlp=False),
    "convnext-convmlp": lambda: _convnext(conv_mlp=True),
    "convnextv2": lambda: _convnext(use_grn=True, ls_init_value=None),
    "vit": _vit,
    "vit-layerscale": lambda: _vit(init_values=0.1),
    "vit-qknorm": lambda: _vit(qk_norm=True),
    "resnet18-merged": lambda: merged(timm.create_model("resnet18", **_RESNET)),
    "mobilenetv2-merged": lambda: merged(timm.create_model("mobilenetv2_035", **_MOBILENET)),
    "convnext-merged": lambda: merged(_convnext(conv_mlp=False), "factored"),
    "vit-merged": lambda: merged(_vit(init_values=0.1)),
}


def model_and_images(name: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A model with randomised statistics, biases and layer scales and sound weights, and images for it."""
    torch.manual_seed(0)
    model = randomize(MODELS[name]().eval(), seed=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # merged untrained weights are no longer of a sound size
    side = 48 if name.startswith("vit") else 40
    return model.to(dtype), torch.randn(batch, 3, side, side).to(dtype)


class Stub(Backend):
    """A backend whose calls are the plain operators with something done to its result."""

    def __init__(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        self.name = name
        self.change = change
        self.prepared = 0

    def supports(self, problem: Problem) -> tuple[bool, str]:
        return True, ""

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        self.prepared += 1
        operator, attributes = problem.operator, problem.attributes
        return lambda *inputs: self.change(operator.plain(*operator.assemble(inputs, weights, attributes)))


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Stub]]:
    """Replace the backends by stubs that take the given times."""

    def install(**stubs: tuple[Callable[[Tensor], Tensor], float]) -> dict[str, Stub]:
        made = {name: Stub(name, change) for name, (change, _) in stubs.items()}
        monkeypatch.setattr(dispatch, "BACKENDS", made)
        monkeypatch.setattr(updp_rt.runtime.lowering, "BACKENDS", made)
        times = {name: seconds for name, (_, seconds) in stubs.items()}
        monkeypatch.setattr(dispatch, "time_side_by_side", lambda calls, **_: {name: times[name] for name in calls})
        return made

    return install


@pytest.fixture
def mi100(monkeypatch: pytest.MonkeyPatch) -> Iterator[hip.EmulatedMI100]:
    """An emulated MI100 on which HIP kernels are the fastest; the emulator's own times mean nothing."""

    def times(calls: Mapping[str, Callable[[], Tensor]], **_: object) -> dict[str, float]:
        return {name: 1e-3 + 1e-6 * i if name.startswith("hip") else 1.0 for i, name in enumerate(calls)}

    monkeypatch.setattr(dispatch, "time_side_by_side", times)
    with hip.emulated_mi100() as device:
        assert isinstance(device, hip.EmulatedMI100)
        yield device
