"""What rivals that narrow transformer blocks share: units, gates before the layers that read them, a budget, the cut.

A unit is a head of attention, or a hidden number of an MLP. A gate weighs units where the next layer reads them, so
that a weight of 0 is a unit left out; `narrowed` takes those out, which changes nothing but rounding.

The budget is that of the methods that prune depth: with ``num_pruned`` of N, at least as many multiply-accumulates go
as UPDP's merged form of N blocks saves. Every part keeps a unit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model, copy_shapes
from updp_rt._marks import to_source
from updp_rt.blocks import (
    UnsupportedModelError,
    count_costs,
    make_progressive,
    merge_model,
    model_input_size,
    prunable_blocks,
    set_lambda,
)
from updp_rt.channels import prune_channels
from updp_rt.channels.select import to_runs
from updp_rt.methods.attention import transformer_blocks

Masks = dict[str, Tensor]
Counts = dict[str, int]
Size = tuple[int, int, int]

READERS = {"attn": "proj", "mlp": "fc2"}  # the parts of a block, and the layer of each that reads its units


class UnitGate(nn.Module):
    """A linear layer, and what each unit of its input ``[N, T, C]`` weighs.

    Attributes:
        part: the part's name in its model.
        kept: ``[units]`` bool, those that are not left out.
        values: weights ``[units]``, or ``[N, units]`` for each image; None: 1 for those kept, 0 for others.
    """

    kept: Tensor

    def __init__(self, part: str, inner: nn.Linear, units: int) -> None:
        super().__init__()
        self.part, self.inner = part, inner
        self.register_buffer("kept", torch.ones(units, dtype=torch.bool, device=inner.weight.device))
        self.values: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.weigh(x))
        return y

    def weigh(self, x: Tensor) -> Tensor:
        values = (self.kept if self.values is None else self.values).to(x.dtype)
        return times(x, values if values.dim() == 1 else values[:, None])

    def spread(self, of_inputs: Tensor) -> Tensor:
        """Numbers ``[..., C]`` of this layer's inputs by unit: ``[..., units, C / units]``."""
        return of_inputs.unflatten(-1, (len(self.kept), -1))


def times(x: Tensor, values: Tensor) -> Tensor:
    """Each unit of ``[..., C]`` times its value, ``[..., units]``."""
    return (x.unflatten(-1, (values.shape[-1], -1)) * values[..., None]).flatten(-2)


def find_parts(name: str, model: nn.Module) -> Counts:
    """The parts that the method `name` can narrow, and how many units each has; raises `UnsupportedModelError`."""
    found: Counts = {}
    for block in transformer_blocks(name, model):
        module: Any = model.get_submodule(block)
        heads, of_each = module.attn.num_heads, module.attn.proj.in_features // module.attn.num_heads
        if heads == of_each:
            raise UnsupportedModelError(f"{block} has as many heads as numbers in each, {heads}: heads cannot be taken")
        found |= {f"{block}.attn": heads, f"{block}.mlp": module.mlp.fc1.out_features}
    return found


def reader(part: str) -> str:
    """The layer that reads a part's units."""
    return f"{part}.{READERS[part.rpartition('.')[2]]}"


def put_gates(model: nn.Module, units: Counts, kind: type[UnitGate] = UnitGate) -> nn.Module:
    """A copy of `model` with gates of a kind in these parts, which weigh 1."""
    model = to_source(copy_model(model))
    for part, count in units.items():
        layer = model.get_submodule(reader(part))
        assert isinstance(layer, nn.Linear)
        model.set_submodule(reader(part), kind(part, layer, count))
    return model


def find_gates(model: nn.Module) -> dict[str, Any]:
    """The gates of `model` by the part that they are in."""
    return {module.part: module for module in model.modules() if isinstance(module, UnitGate)}


def narrowed(gated: nn.Module) -> nn.Module:
    """A copy of a model with gates, in eval mode: without gates, and without the units that they do not keep."""
    model = copy_model(gated).eval()
    masks = {}
    for part, gate in find_gates(model).items():
        model.set_submodule(reader(part), gate.inner)
        masks[reader(part)] = gate.kept.repeat_interleave(gate.inner.in_features // len(gate.kept)).cpu().numpy()
    first = next(model.parameters())
    image = torch.randn(1, *model_input_size(model), generator=torch.Generator().manual_seed(0))
    return prune_channels(model, image.to(first.device, first.dtype), masks=masks).model


def write_kept(kept: Tensor) -> str:
    """A mask as ranges ``first:stop``."""
    return " ".join(f"{first}:{first + length}" for first, length in to_runs(kept.nonzero().flatten().tolist()))


def read_kept(ranges: str, units: int) -> Tensor:
    """The mask that `write_kept` wrote."""
    kept = torch.zeros(units, dtype=torch.bool)
    for piece in ranges.split():
        first, stop = map(int, piece.split(":"))
        kept[first:stop] = True
    return kept


@dataclass(frozen=True)
class Budget:
    """What has to go, in multiply-accumulates for an image.

    Attributes:
        goal: how many have to go.
        units: how many units each part has.
        macs: how many go with one unit of each part.
    """

    goal: int
    units: Counts
    macs: Counts

    @property
    def whole(self) -> int:
        """Those of all units."""
        return sum(self.macs[part] * count for part, count in self.units.items())

    def is_met(self, kept: Mapping[str, int]) -> bool:
        """Whether enough go where parts keep so many units."""
        return sum(self.macs[part] * (count - kept[part]) for part, count in self.units.items()) >= self.goal

    def within(self, kept: Callable[[float], Counts], low: float, high: float) -> Counts:
        """`kept` at the largest number between two that meets the budget; raises `ValueError` where the lower does not.

        A larger number keeps more units. A part keeps at least one.
        """
        if not self.is_met(_one_each(kept(low))):
            raise ValueError(_too_much(self.goal))
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.is_met(_one_each(kept(middle))) else (low, middle)
        return _one_each(kept(low))

    def same_share(self) -> Counts:
        """As many units of each part as one share for all leaves."""
        shares = sorted({Fraction(k, n) for n in set(self.units.values()) for k in range(n + 1)}, reverse=True)

        def kept(share: Fraction) -> Counts:
            return _one_each({part: int(share * n) for part, n in self.units.items()})

        first = bisect_left(shares, True, key=lambda share: self.is_met(kept(share)))
        if first == len(shares):
            raise ValueError(_too_much(self.goal))
        return kept(shares[first])

    def cut_least(self, scores: Mapping[str, Tensor]) -> Masks:
        """What is left when the units of the lowest scores of all parts go, until the budget is met.

        Of equal ones the first go, as in the published codes, whose scores start alike.
        """
        masks = {part: torch.ones(count, dtype=torch.bool) for part, count in self.units.items()}
        order = sorted((float(score), part, unit) for part, each in scores.items() for unit, score in enumerate(each))
        left, gone = dict(self.units), 0
        for _, part, unit in order:
            if gone >= self.goal:
                return masks
            if left[part] > 1:
                masks[part][unit] = False
                left[part] -= 1
                gone += self.macs[part]
        if gone < self.goal:
            raise ValueError(_too_much(self.goal))
        return masks


def _one_each(kept: Counts) -> Counts:
    return {part: max(1, count) for part, count in kept.items()}


def _too_much(goal: int) -> str:
    return f"heads and hidden units do not have {goal / 1e6:.4g} million MACs to lose: give a smaller num_pruned"


def keep_best(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Masks:
    """So many units of each part, those of the highest scores; of equal ones the first."""
    masks = {}
    for part, each in scores.items():
        masks[part] = torch.zeros(len(each), dtype=torch.bool)
        masks[part][each.detach().cpu().argsort(descending=True, stable=True)[: counts[part]]] = True
    return masks


def find_budget(name: str, model: nn.Module, count: int, size: Size) -> Budget:
    """What the method `name` has to take out of `model` so that it saves as much as `count` blocks merged do."""
    cost, costs = count_costs(model, size)
    units = find_parts(name, model)
    macs = {part: costs[part].macs // number for part, number in units.items()}
    return Budget(cost.macs - merged_macs(model, count, size), units, macs)


def merged_macs(model: nn.Module, count: int, size: Size) -> int:
    """Multiply-accumulates for an image with the first `count` blocks merged: a ViT's are all alike."""
    subnet = make_progressive(to_source(copy_shapes(model)).eval(), prunable_blocks(model)[:count])
    set_lambda(subnet, 1.0)
    return count_costs(merge_model(subnet), size)[0].macs
