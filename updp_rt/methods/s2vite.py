"""`s2vite`: units are dropped and others grown while training, as many as before (Chen et al., NeurIPS 2021).

"Chasing Sparsity in Vision Transformers", its structured variant. From the paper: a network of fixed structured
sparsity is trained, and what is sparse is looked for during training: units are dropped and regrown.

From the published code (VITA-Group/SViTE): the same density in every layer, at first of units drawn at random; a
hundred times in a training, until 80% of it, a share of the live units is dropped and as many are grown, a share of
0.5 at first that falls with half a cosine to 0.005; hidden units are dropped by the L1 norm of their weights (row of
``fc1``, column of ``fc2``), heads by ``|Σ a·dL/da|`` over their outputs.

Ours: trained from the given weights, as all methods are, not from scratch; units that are dropped keep their weights,
which live on behind the mask and come back with the unit; so what a unit grows by is ``|dL/dm|`` of its mask, the
first order of what it would give (for a head the same that it is dropped by), where the code, whose dead weights are
0, has the L1 norm of gradients; heads are masked where ``proj`` reads them. After this stage masks are fixed, and
training goes on dense behind them, which gives what the compact model gives; that one is cut out at the end, where the
published code stays with masks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.methods.narrowing import Narrowing
from updp_rt.methods.units import Budget, Masks, find_gates
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import Losses

UPDATES = 100
LAST = 0.8
FIRST_SHARE, LAST_SHARE = 0.5, 0.005


class S2ViTE(Narrowing):
    """Structured sparse training."""

    name = "s2vite"
    counts = True

    def prepare_chooser(self, run: Run, chooser: nn.Module) -> None:
        counts = self.budget(run).same_share()
        for part, gate in find_gates(chooser).items():
            live = random.Random(f"{run.config.seed}/{part}").sample(range(len(gate.kept)), counts[part])
            gate.kept.fill_(False)
            gate.kept[live] = True

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        config = run.config

        def mean(gradient: Tensor) -> Tensor:  # over all processes, which must grow the same
            found: Tensor = run.accelerator.reduce(gradient, "mean")
            return found

        return growing_losses(run.steps(config.supernet_epochs), mean, config.label_smoothing)

    def masks(self, run: Run, chooser: nn.Module, budget: Budget) -> Masks:
        return {part: gate.kept.cpu() for part, gate in find_gates(chooser).items()}


def due(step: int, steps: int) -> float:
    """Which share of the live units is dropped after `step`; 0 where none is."""
    every = max(1, steps // UPDATES)
    if (step + 1) % every or step + 1 > LAST * steps:
        return 0.0
    return LAST_SHARE + 0.5 * (FIRST_SHARE - LAST_SHARE) * (1 + math.cos(math.pi * step / (LAST * steps)))


@torch.no_grad()
def regrow(kept: Tensor, missed: Tensor, gives: Tensor, share: float) -> Tensor:
    """Which units live when a share of those `kept` is dropped and as many grow.

    Args:
        missed: how much each live unit would be missed: the least are dropped.
        gives: how much each dead one would give, those dropped now among them: the most grow.
    """
    moved = int(share * int(kept.sum()))
    least = missed.masked_fill(~kept, math.inf).argsort(stable=True)[:moved]
    grown = kept.clone()
    grown[least] = False
    most = gives.masked_fill(grown, -math.inf).argsort(descending=True, stable=True)[:moved]
    grown[most] = True
    return grown


def growing_losses(
    steps: int, mean: Callable[[Tensor], Tensor] = lambda gradient: gradient, label_smoothing: float = 0.0
) -> Losses:
    """Cross entropy of the live units, which change whenever that is due; `mean` is taken over processes."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        bare: Any = getattr(model, "module", model)
        gates, share = find_gates(bare), due(step, steps)
        for gate in gates.values():
            gate.values = gate.kept.to(gate.inner.weight.dtype, copy=True).requires_grad_(share > 0)
        yield F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        if not share:
            return
        for part, gate in gates.items():
            gives = mean(gate.values.grad).abs()
            missed = gives if part.endswith(".attn") else weight_of(bare.get_submodule(part))
            gate.kept.copy_(regrow(gate.kept, missed, gives, share))

    return losses


def weight_of(mlp: Any) -> Tensor:
    """L1 norm of each hidden unit's weights, of both layers; `mlp.fc2` is behind its gate."""
    found: Tensor = mlp.fc1.weight.detach().abs().sum(1) + mlp.fc2.inner.weight.detach().abs().sum(0)
    return found
