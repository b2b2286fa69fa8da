"""Neighbours pruned into one convolution: what that takes, beside each of the two merged by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from updp_rt._copies import copy_shapes
from updp_rt._timing import time_side_by_side
from updp_rt.blocks import make_progressive, merge_model, progressive_blocks, set_lambda
from updp_rt.blocks.parts import JOINED, Part
from updp_rt.blocks.segments import is_too_dense, joinable, make_segment, neighbours
from updp_rt.pruning.progress import Progress


class Joined(BaseModel):
    """Two neighbours as one convolution: the pruned body of each, and milliseconds of both."""

    model_config = ConfigDict(extra="forbid")

    blocks: tuple[str, str]
    bodies: tuple[str, str]
    ms: float

    def parts(self) -> dict[str, str]:
        """What becomes of each block."""
        (first, second), (body, other) = self.blocks, self.bodies
        return {first: body, second: str(Part(other, JOINED))}


@torch.no_grad()
def measure_joined(
    model: nn.Module,
    bodies: Mapping[str, str],
    forms: Mapping[str, str],
    merged_ms: Mapping[str, float],
    inputs: Mapping[str, Tensor],
    example: Tensor,
    prepare: Callable[[nn.Module, Tensor], nn.Module],
    progress: Progress,
) -> list[Joined]:
    """Time all neighbours that can be one convolution, none of them much larger than the blocks themselves.

    Pairs of the same structure and input shape are timed once.

    Args:
        bodies, forms: the pruned body and the merged form of each block.
        merged_ms: milliseconds of each merged so, of which the pair takes as large a share as measured here.
        inputs: of each block.
        prepare: makes a module ready before it is timed on an input.
    """
    pruned = make_progressive(model, bodies)
    set_lambda(pruned, 1.0)
    blocks, merged, shapes = progressive_blocks(pruned), merge_model(pruned, forms), copy_shapes(model)
    together = neighbours(model, list(bodies), example[:1])
    measured: dict[str, float] = {}
    found = []
    with progress.task("joined", max(0, len(bodies) - 1)) as advance:
        for first, second in pairwise(bodies):
            advance(second)
            if second not in together or not (joinable(blocks[first]) and joinable(blocks[second])):
                continue
            one = Joined(blocks=(first, second), bodies=(bodies[first], bodies[second]), ms=0.0)
            joined = make_segment(shapes, one.parts()).merge()
            if is_too_dense(joined, [model.get_submodule(first), model.get_submodule(second)]):
                continue
            x, apart = inputs[first], nn.Sequential(merged.get_submodule(first), merged.get_submodule(second)).eval()
            key = f"{joined} {apart} {tuple(x.shape)}"
            if key not in measured:
                joined = joined.to_empty(device=x.device)
                for parameter in joined.parameters():
                    nn.init.normal_(parameter, std=0.02)
                calls = {name: partial(prepare(m, x), x) for name, m in (("joined", joined), ("apart", apart))}
                times = time_side_by_side(calls, device=x.device)
                measured[key] = times["joined"] / times["apart"]
            ms = measured[key] * (merged_ms[first] + merged_ms[second])
            found.append(one.model_copy(update={"ms": ms}))
    return found
