"""`drop`: whole blocks are left out, the ones that are missed least.

The plainest depth pruning there is, as in stochastic depth turned permanent and in what is done to language models: no
paper is followed. A block can go if its input has the shape of its output. Each is left out alone, BatchNorm is
recalibrated, and the cross entropy on the validation images tells how much it is missed; those missed least go
together, and what is left is trained for all of the budget, since nothing else is. All choices are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt._timing import time_side_by_side
from updp_rt.blocks import UnsupportedModelError, model_input_size, prunable_blocks
from updp_rt.data.sharing import part_of
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Replacing
from updp_rt.pruning.ranks import added, processes, rank
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import Candidate, SearchResult

BODY = "nothing"


class Drop(Replacing):
    """Blocks left out."""

    name = "drop"

    def names(self, model: nn.Module) -> list[str]:
        shapes = block_shapes(model)
        names = [name for name in prunable_blocks(model) if shapes[name][0] == shapes[name][1]]
        if not names:
            raise UnsupportedModelError("no block of this model can be left out: each changes the shape of its input")
        return names

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        count = run.config.num_pruned
        assert count is not None
        missed = {}
        with run.progress.task("search", len(run.names)) as advance:
            for name in run.names:
                missed[name] = missing(run, self.subnet(run.model, {name: BODY}))
                advance(name)
        least = sorted(run.names, key=lambda name: missed[name])[:count]
        bodies = {name: BODY for name in run.names if name in least}
        return judge_one(run, self.subnet(run.model, bodies), bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        model = to_source(copy_model(model))
        for name in bodies:
            model.set_submodule(name, nn.Identity())
        return model


@torch.no_grad()
def missing(run: Run, model: nn.Module) -> float:
    """Mean cross entropy on the validation images, BatchNorm recalibrated: by all processes of the run together."""
    model = model.to(run.device).eval()
    recalibrate(model, run.recalibration_batches, together=True)
    total, count = 0.0, 0
    for images, labels in part_of(run.val_loader, rank(), processes()):
        logits = model(images.to(run.device))
        total += float(F.cross_entropy(logits, labels.to(run.device), reduction="sum"))
        count += len(labels)
    total, images_seen = added([total, count], run.device)
    return total / images_seen


def judge_one(run: Run, subnet: nn.Module, bodies: Mapping[str, str]) -> SearchResult:
    """The one candidate of a method that looks at no others: its accuracy as it starts, and its latency as measured."""
    subnet = subnet.to(run.device).eval()
    with torch.no_grad():
        ready = run.kernels.prepare(subnet, run.example)
        times = time_side_by_side({"subnet": partial(ready, run.example)}, device=run.device)
    recalibrate(subnet, run.recalibration_batches, together=True)
    accuracy = run.evaluate(subnet, together=True)
    chosen = Candidate(blocks=tuple(bodies), accuracy=accuracy, latency_ms=times["subnet"] * 1e3)
    return SearchResult(candidates=[chosen], chosen=chosen, bodies=dict(bodies))


@torch.no_grad()
def block_shapes(model: nn.Module) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Shapes of each prunable block's input and output, of one image."""
    model = copy_model(model).eval()
    found: dict[str, tuple[torch.Size, torch.Size]] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = args[0].shape, output.shape

    for name in prunable_blocks(model):
        model.get_submodule(name).register_forward_hook(partial(keep, name))
    first = next(model.parameters())
    model(torch.zeros(1, *model_input_size(model), device=first.device, dtype=first.dtype))
    return found
