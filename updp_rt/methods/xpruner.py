"""`xpruner`: a mask a unit and class, a threshold a layer (after Yu & Xiang, "X-Pruner", CVPR 2023); X-Pruner-like.

No code is published beyond a README. From the paper (arXiv 2303.04935): a mask a prunable unit and class, trained end
to end, says how much the unit contributes to the class; thresholds of layers are looked for under a constraint on the
cost; then the pruned network is trained on. Units are heads and hidden units; in training an image takes the column of
its label; the loss has a term for sparse masks and one for smooth ones, and one for the distance of the cost from its
target; thresholds learn through a sigmoid; units are ranked by their masks over all classes.

Ours, since the paper's text leaves them open: masks start at 1 and thresholds at 0.5, both `RATE` times as fast as
weights; a unit's rank is the mean of |mask| over the classes, the sigmoid's width 0.1; smooth is small variance over
the classes; the weights of the three terms; cost is MACs; at the end all thresholds move together until the budget is
met, and masks go: units that stay are trained on whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.methods.gates import RATE
from updp_rt.methods.narrowing import Narrowing
from updp_rt.methods.units import Budget, Masks, find_gates
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import Losses

START, THRESHOLD, WIDTH = 1.0, 0.5, 0.1
SPARSE, SMOOTH, COST = 0.1, 0.1, 1.0


class XPruner(Narrowing):
    """Masks of units for each class."""

    name = "xpruner"
    counts = True

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        gated: Any = super().chooser(model, bodies)
        for gate in find_gates(gated).values():
            like = gate.inner.weight
            gate.register_parameter("classes", nn.Parameter(like.new_zeros(gated.num_classes * len(gate.kept))))
            gate.register_parameter("threshold", nn.Parameter(like.new_zeros(())))
        return gated

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        return class_losses(self.budget(run), run.config.label_smoothing)

    def masks(self, run: Run, chooser: nn.Module, budget: Budget) -> Masks:
        return budget.cut_least({part: margin(gate).detach() for part, gate in find_gates(chooser).items()})


def class_masks(gate: Any) -> Tensor:
    """The masks ``[classes, units]`` of a gate, which gradients follow."""
    # A vector, and around 0, so that nothing decays, and not towards 0.
    return START + RATE * gate.classes.view(-1, len(gate.kept))


def margin(gate: Any) -> Tensor:
    """By how much each unit is above its layer's threshold."""
    found: Tensor = class_masks(gate).abs().mean(0) - (THRESHOLD + RATE * gate.threshold)
    return found


def class_losses(budget: Budget, label_smoothing: float = 0.0) -> Losses:
    """Cross entropy of images behind the masks of their classes, and what the masks and thresholds are held by."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        sparse = smooth = gone = torch.zeros((), device=images.device)
        for part, gate in find_gates(model).items():
            masks, open_ = class_masks(gate), (margin(gate) / WIDTH).sigmoid()
            gate.values = masks[labels] * open_
            weight = budget.macs[part] * len(gate.kept) / budget.whole
            sparse = sparse + weight * masks.abs().mean()
            smooth = smooth + weight * masks.var(0, correction=0).mean()
            gone = gone + weight * (1 - open_.mean())
        loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        yield loss + SPARSE * sparse + SMOOTH * smooth + COST * (gone - budget.goal / budget.whole).abs()

    return losses
