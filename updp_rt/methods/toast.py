"""`toast`: blocks become closed-form linear maps, and nothing is trained (TOAST, arXiv 2410.04941): the floor.

From the paper: a block (or several) of a pretrained network is replaced by a linear map that is fitted in closed form,
on a few training images, from what goes into it to what comes out of it; the blocks replaced are those that such a map
is closest to. No code was read.

Ours: the map is affine, one for every token or pixel (of a strided block, for the pixel under the output's), with a
ridge of 1e-6 of the mean square; blocks are ranked by the share of the variance that their map leaves; those chosen are
fitted one after the other, each on what the maps before it give, to the baseline's output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt.blocks.norms import channels_last_rows
from updp_rt.methods.drop import block_shapes, judge_one
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import CALIBRATION_IMAGES, Replacing
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import SearchResult

BODY = "map"
RIDGE = 1e-6


class Toast(Replacing):
    """Closed-form linear maps in the place of blocks."""

    name = "toast"
    trains = False

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        count = run.config.num_pruned
        assert count is not None
        model = copy_model(run.model).to(run.device).eval()
        seen = pass_through(model, run.names, run.training_images(CALIBRATION_IMAGES))
        left = {name: residual(*affine_fit(rows(x, y), channels_last_rows(y)), x, y) for name, (x, y) in seen.items()}
        least = sorted(run.names, key=lambda name: left[name])[:count]
        bodies = {name: BODY for name in run.names if name in least}
        subnet = self.subnet(run.model, bodies)
        self.prepare(run, subnet)
        return judge_one(run, subnet, bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        shapes = block_shapes(model)
        model = to_source(copy_model(model))
        for name in bodies:
            before, after = shapes[name]
            first = next(model.get_submodule(name).parameters())
            layer: nn.Module = nn.Linear(before[-1], after[-1])
            if len(before) == 4:
                layer = nn.Conv2d(before[1], after[1], 1, stride=-(-before[2] // after[2]))
            model.set_submodule(name, layer.to(first.device, first.dtype))
        return model

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        images = run.training_images(CALIBRATION_IMAGES)
        baseline = copy_model(run.model).to(run.device).eval()
        subnet.to(run.device).eval()
        replaced = [name for name in run.names if isinstance(subnet.get_submodule(name), nn.Linear | nn.Conv2d)]
        wanted = {name: y for name, (_, y) in pass_through(baseline, replaced, images).items()}
        for name in replaced:
            x, _ = pass_through(subnet, [name], images)[name]
            put_map(subnet.get_submodule(name), *affine_fit(rows(x, wanted[name]), channels_last_rows(wanted[name])))


@torch.no_grad()
def pass_through(model: nn.Module, names: Iterable[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes into each of these modules and what comes out, in one run of `model`."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = args[0].clone(), output.clone()  # what comes next may work in place

    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rows(x: Tensor, y: Tensor) -> Tensor:
    """Inputs ``[M, C]`` of a map that gives `y`: every token, or every pixel under one of `y`'s."""
    if x.dim() == 4:
        step = -(-x.shape[2] // y.shape[2])
        x = x[:, :, ::step, ::step]
    return channels_last_rows(x)


def affine_fit(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """``(W, b)`` of the least ``|x Wᵀ + b - y|²`` plus the ridge, over rows ``[M, C]``; float64."""
    x, y = inputs.double(), outputs.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    ridge = RIDGE * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), x.T @ y).T
    return weight, y_mean - weight @ x_mean


def residual(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    """The share of the outputs' variance that the map leaves."""
    inputs, outputs = rows(x, y).double(), channels_last_rows(y).double()
    left = (inputs @ weight.T + bias - outputs).square().sum()
    return float(left / (outputs - outputs.mean(0)).square().sum())


@torch.no_grad()
def put_map(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give a linear layer or a 1x1 convolution this map."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias.copy_(bias)
