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
from updp_rt.blocks import make_progressive, progressive_blocks
from updp_rt.blocks.affine import fit_affine
from updp_rt.blocks.parts import AFFINE
from updp_rt.methods.drop import judge_one
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import CALIBRATION_IMAGES, Replacing
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import SearchResult

BODY = "map"


class Toast(Replacing):
    """Closed-form linear maps in the place of blocks."""

    name = "toast"
    trains = False

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        count = run.config.num_pruned
        assert count is not None
        model = copy_model(run.model).to(run.device).eval()
        seen = pass_through(model, run.names, run.training_images(CALIBRATION_IMAGES))
        maps = self.subnet(run.model, dict.fromkeys(run.names, BODY)).to(run.device)
        left = {name: fit_affine(maps.get_submodule(name), x, y) for name, (x, y) in seen.items()}
        least = sorted(run.names, key=lambda name: left[name])[:count]
        bodies = {name: BODY for name in run.names if name in least}
        subnet = self.subnet(run.model, bodies)
        self.prepare(run, subnet)
        return judge_one(run, subnet, bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        model = make_progressive(model, dict.fromkeys(bodies, AFFINE))
        for name, block in progressive_blocks(model).items():
            model.set_submodule(name, block.norms[AFFINE])
        return model

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        images = run.training_images(CALIBRATION_IMAGES)
        baseline = copy_model(run.model).to(run.device).eval()
        subnet.to(run.device).eval()
        replaced = [name for name in run.names if isinstance(subnet.get_submodule(name), nn.Linear | nn.Conv2d)]
        wanted = {name: y for name, (_, y) in pass_through(baseline, replaced, images).items()}
        for name in replaced:
            x, _ = pass_through(subnet, [name], images)[name]
            fit_affine(subnet.get_submodule(name), x, wanted[name])


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
