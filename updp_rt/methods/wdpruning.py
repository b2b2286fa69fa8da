"""`wdpruning`: scores rank units, and a threshold a layer learns how many stay (Yu et al., AAAI 2022).

"Width & Depth Pruning for Vision Transformers". From the paper: a score a unit and a threshold a layer are trained
with the weights, a constraint on what is kept is held by multipliers that are learnt too, and training ends with the
pruned network: there is no training afterwards.

From the published code (andyrull/width-and-Depth-pruning-for-Vision-Transformer): scores start at 0, thresholds τ at
10; a layer keeps the best ``ceil(sigmoid(τ)·n)`` of n units, rounded to multiples of 16 where n is one; the mask is 1
or 0, the gradient of a score is that of its mask, and that of the ratio the sum over the units kept; above the target
``λ1·d + λ2·d²`` is added, where d is what is kept beyond it, and λ1 and λ2 rise by a step of 10, which falls with half
a cosine.

The paper trains scores and thresholds at a rate of their own without weight decay. In the code scores, by an oversight
in how their names are matched, learn as slowly as weights do and decay: ``wdpruning`` is the former,
``wdpruning-as-coded`` the latter.

Ours: heads and hidden units alone, since rows of ``proj`` and ``fc2`` that are left out would have to be scattered
into the residual; no classifiers at earlier blocks, which the published rows of all twelve blocks don't use either;
what is kept is counted in MACs; τ starts at 4 (98% kept) and is as fast as it takes to fall by that much in two thirds
of the time, however short (faster, AdamW carries it far below the target); at the end all τ move together until the
budget is met, and the weights are then trained on as those of all methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.methods.gates import RATE
from updp_rt.methods.narrowing import Narrowing
from updp_rt.methods.units import Budget, Counts, Masks, find_gates, keep_best
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import Losses

START = 4.0  # of every τ
TRAVEL = 3 * START  # how far τ could come at the full rate: half of that under the schedule
MULTIPLE = 16
ASCENT = 10.0


class WDPruning(Narrowing):
    """Learnt scores and thresholds; scores in the group of the pruner."""

    name = "wdpruning"
    counts = True
    grouped: ClassVar[bool] = True

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        gated = super().chooser(model, bodies)
        for gate in find_gates(gated).values():
            like = gate.inner.weight
            # Vectors do not decay, matrices do.
            shape = (len(gate.kept),) if self.grouped else (len(gate.kept), 1)
            gate.register_parameter("scores", nn.Parameter(like.new_zeros(shape)))
            gate.register_parameter("threshold", nn.Parameter(like.new_zeros(())))
        gated.register_buffer("multipliers", next(gated.parameters()).new_zeros(2))
        return gated

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        config = run.config
        steps = run.steps(config.supernet_epochs)
        return threshold_losses(self.budget(run), self.pace(run), steps, self.grouped, config.label_smoothing)

    def pace(self, run: Run) -> float:
        """How many times as fast as weights τ is."""
        return TRAVEL / (run.config.supernet_lr * max(1, run.steps(run.config.supernet_epochs)))

    def masks(self, run: Run, chooser: nn.Module, budget: Budget) -> Masks:
        gates = find_gates(chooser)
        pace = self.pace(run)
        reached = {part: float(threshold(gate, pace).detach()) for part, gate in gates.items()}

        def kept(shift: float) -> Counts:
            return {part: count_kept(sigmoid(tau + shift), budget.units[part]) for part, tau in reached.items()}

        counts = budget.within(kept, -1e3, 1e3)
        run.progress.log("thresholds: " + ", ".join(f"{part} {tau:.2f}" for part, tau in reached.items()))
        return keep_best({part: scores(gate, self.grouped) for part, gate in gates.items()}, counts)


class WDPruningAsCoded(WDPruning):
    """The same with the scores among the weights."""

    name = "wdpruning-as-coded"
    grouped = False


class TopShare(torch.autograd.Function):
    """1 for the `count` best of some scores, 0 for others; gradients as if the mask were score and share times mask."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, share: Tensor, count: int) -> Tensor:
        mask = torch.zeros_like(scores)
        mask[scores.argsort(descending=True, stable=True)[:count]] = 1
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0], (gradients[0] * mask).sum(), None


def scores(gate: Any, grouped: bool) -> Tensor:
    """The scores of a gate's units, which gradients follow."""
    return gate.scores * RATE if grouped else gate.scores.flatten()


def threshold(gate: Any, pace: float) -> Tensor:
    """A gate's τ, which gradients follow."""
    return START + pace * gate.threshold


def count_kept(share: float, units: int) -> int:
    """How many of so many units a share is."""
    count = math.ceil(share * units)
    if units % MULTIPLE or count % MULTIPLE == 0:
        return count
    return max(MULTIPLE, MULTIPLE * math.floor(count / MULTIPLE + 0.5))


def sigmoid(x: float) -> float:
    """``1 / (1 + exp(-x))``, whatever x is."""
    return 0.5 * (1 + math.tanh(0.5 * x))


def threshold_losses(
    budget: Budget, pace: float, steps: int, grouped: bool = True, label_smoothing: float = 0.0
) -> Losses:
    """Cross entropy with what scores and thresholds leave, and what holds the latter to the budget."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        bare: Any = getattr(model, "module", model)
        gone = torch.zeros((), device=images.device)
        for part, gate in find_gates(bare).items():
            share = threshold(gate, pace).sigmoid()
            count = count_kept(float(share.detach()), len(gate.kept))
            gate.values = TopShare.apply(scores(gate, grouped), share, count)
            gone = gone + budget.macs[part] * len(gate.kept) * (1 - share)
        beyond = (budget.goal - gone) / budget.whole
        loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        if beyond > 0:
            first, second = bare.multipliers.tolist()
            loss = loss + first * beyond + second * beyond.square()
            bare.multipliers += ASCENT * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
        yield loss

    return losses
