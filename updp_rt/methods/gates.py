"""Gates: one number a block that learns beside the weights how far the block is to be pruned."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from updp_rt.blocks import Gate, make_progressive, progressive_blocks, set_lambda
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Method, need_number
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import Candidate, SearchResult

# Gates learn so many times faster than weights: they are trained for a few epochs here, and for a hundred or more in
# the papers. A parameter holds the gate's value divided by it.
RATE = 10.0
PARAMETER = "gate"


class SoftGate(Gate):
    """``(1 - a)·old + a·new``."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def fade(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.lerp(old, new, self.value.to(old.dtype))


class HardGate(Gate):
    """Either `old` or `new`; the gradient of the value is that of the soft gate: ``<dL/dy, new - old>``."""

    def __init__(self, value: Tensor, *, pruned: bool) -> None:
        self.value, self.pruned = value, pruned

    def fade(self, old: Tensor, new: Tensor) -> Tensor:
        through = (self.value - self.value.detach()).to(old.dtype)
        return (new if self.pruned else old) + through * (new - old).detach()


class Gated(Method):
    """Base of methods that train a gate a block, prune those whose gates are the furthest open, and train with λ = 1.

    What is gated is all that our pruned form changes in a block (`updp_rt.blocks`): what is chosen is what is merged.
    """

    fades = False

    def passes(self, config: PruneConfig) -> int:
        return 1

    def check(self, model: nn.Module, config: PruneConfig) -> None:
        need_number(self.name, config)
        super().check(model, config)

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module | None:
        gated = make_progressive(model, bodies)
        for block in progressive_blocks(gated).values():
            block.register_parameter(PARAMETER, nn.Parameter(next(block.parameters()).new_zeros(())))
        return gated

    def prepare_chooser(self, run: Run, chooser: nn.Module) -> None:
        """Blocks start as they are: the papers fit nothing."""

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        assert chooser is not None
        assert run.config.num_pruned is not None
        values = {name: float(value.detach()) for name, value in gate_values(chooser).items()}
        open_ = set(furthest_open(values, run.config.num_pruned, run.config.seed))
        blocks = tuple(name for name in run.names if name in open_)
        bodies = table.choose_bodies(blocks, run.config.body)
        set_lambda(chooser, 1.0, blocks)
        recalibrate(chooser, run.recalibration_batches, together=True)
        accuracy = run.evaluate(chooser, together=True)
        chosen = Candidate(blocks=blocks, accuracy=accuracy, latency_ms=table.estimate_ms(bodies))
        run.progress.log("gates: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        return SearchResult(candidates=[chosen], chosen=chosen, bodies=bodies)

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        """The weights of the baseline; norms are the baseline's own."""


def gate_values(model: nn.Module) -> dict[str, Tensor]:
    """The gate's value of each block, which gradients follow."""
    return {name: RATE * getattr(block, PARAMETER) for name, block in progressive_blocks(model).items()}


@torch.no_grad()
def clamp_gates(model: nn.Module, most: float | None = 1.0) -> None:
    """Bring every gate back to at least 0, and to at most `most`."""
    for block in progressive_blocks(model).values():
        getattr(block, PARAMETER).clamp_(0.0, None if most is None else most / RATE)


def furthest_open(values: Mapping[str, float], count: int, seed: int) -> list[str]:
    """The `count` blocks of the largest values; of equal ones, as all are at the start, those that the seed draws."""
    names = list(values)
    random.Random(f"{seed}/gates").shuffle(names)
    return sorted(names, key=lambda name: -values[name])[:count]
