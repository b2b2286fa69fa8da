"""`scop`: units are kept that beat their knock-offs (after Tang et al., "SCOP", NeurIPS 2020); SCOP-like.

From the paper: images that say nothing of the class (knock-offs) run beside the real ones; each channel mixes its real
feature and its knock-off by a number that is trained, and a channel whose real feature is hardly preferred is pruned.

From the published code (huawei-noah/Efficient-Computing): ``s·real + (1 - s)·knock-off`` for the real half of the
batch, the other half as it is; s from 0.5, held in [0, 1]; s alone is trained; the score is how much a unit's feature
is scaled times ``2·s - 1``; the same share goes in every layer.

Ours: the published knock-offs come from a GAN whose training is not published: here the knock-off of an image is
another of the batch of another class, which has the features' statistics and not the class; heads and hidden units of
transformers, where the published code has the channels of convolutions, and instead of their BatchNorms' scale the
norm of the weights that read the unit; s learns `RATE` times as fast as weights would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.methods.gates import RATE
from updp_rt.methods.narrowing import Narrowing
from updp_rt.methods.units import Budget, Masks, UnitGate, find_gates, keep_best, times
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import Losses

START = 0.5


class KnockoffGate(UnitGate):
    """Mixes the first half of a batch, unit by unit, with the second while it has values to mix by."""

    def weigh(self, x: Tensor) -> Tensor:
        if self.values is None:
            return super().weigh(x)
        real, knockoff = x.chunk(2)
        return torch.cat([knockoff + times(real - knockoff, self.values.to(x.dtype)), knockoff])


class Scop(Narrowing):
    """Units against knock-offs."""

    name = "scop"
    gate = KnockoffGate

    def passes(self, config: PruneConfig) -> int:
        return 2

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        gated = super().chooser(model, bodies).requires_grad_(False)
        for gate in find_gates(gated).values():
            gate.register_parameter("mixing", nn.Parameter(gate.inner.weight.new_full((len(gate.kept),), START / RATE)))
        return gated

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        return knockoff_losses(run.config.label_smoothing)

    def masks(self, run: Run, chooser: nn.Module, budget: Budget) -> Masks:
        return keep_best({part: score(gate) for part, gate in find_gates(chooser).items()}, budget.same_share())


@torch.no_grad()
def score(gate: KnockoffGate) -> Tensor:
    """What a unit's real feature is preferred by, ``[units]``."""
    mixing = gate.get_parameter("mixing").clamp(0.0, 1.0 / RATE) * RATE
    return gate.spread(gate.inner.weight).square().sum((0, 2)).sqrt() * (2 * mixing - 1)


def other_class(labels: Tensor) -> Tensor:
    """For each image the index of another, drawn at random: of another class if no class has more than half of them."""
    order = torch.randperm(len(labels), device=labels.device)
    order = order[labels[order].argsort(stable=True)]
    partner = torch.empty_like(order)
    partner[order] = order.roll(-int(labels.bincount().max()))  # past the end of the longest class
    return partner


def knockoff_losses(label_smoothing: float = 0.0) -> Losses:
    """Cross entropy of images whose units are mixed with those of their knock-offs."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        for gate in find_gates(model).values():
            with torch.no_grad():
                gate.mixing.clamp_(0.0, 1.0 / RATE)
            gate.values = gate.mixing * RATE
        logits = model(torch.cat([images, images[other_class(labels)]]))
        yield F.cross_entropy(logits[: len(images)], labels, label_smoothing=label_smoothing)

    return losses
