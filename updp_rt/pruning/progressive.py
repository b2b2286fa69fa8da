"""Stage 3: train the chosen subnet while λ takes it from the baseline to the pruned form."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.blocks import progressive_blocks
from updp_rt.pruning.trainer import Losses

FEWEST = 10  # steps in which λ rises: with fewer it jumps
# Steps of the subnet below which λ rises in a smaller share of them unless one is asked for. Of 187 a ramp cost more
# the longer it was; of 561 a MobileNetV2's did, by one seed, and a ResNet's were level; so were its of 1,683 (the study
# `fading`). Where between these the limit lies was not measured.
SHORT, SHORT_RAMP = 1_000, 0.1


def lambda_at(step: int, ramp_steps: int, schedule: str = "linear") -> float:
    """λ of `step`: 0 at the start, 1 from `ramp_steps` on; ``linear``, or half a ``cosine``."""
    if step >= ramp_steps:
        return 1.0
    share = step / ramp_steps
    return share if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * share))


def ramp_steps(share: float, steps: int) -> int:
    """How many of `steps` λ rises in: `share` of them, but at least `FEWEST` or half of all; the last is at λ = 1."""
    return min(steps - 1, max(round(share * steps), min(FEWEST, (steps + 1) // 2)))


def progressive_losses(
    ramp_steps: int,
    schedule: str = "linear",
    *,
    teacher: nn.Module | None = None,
    distill: float = 0.0,
    label_smoothing: float = 0.0,
    trace: list[tuple[int, float]] | None = None,
) -> Losses:
    """Losses that set λ before each step; with a teacher, `distill` parts of its outputs as soft targets.

    Where λ is set, ``(step, λ)`` is appended to `trace`.
    """

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        lam = lambda_at(step, ramp_steps, schedule)
        for block in progressive_blocks(model).values():
            block.lam = lam
        if trace is not None:
            trace.append((step, lam))
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if teacher is not None and distill > 0:
            with torch.no_grad():
                targets = teacher(images).softmax(-1)
            loss = torch.lerp(loss, F.cross_entropy(logits, targets), distill)
        yield loss

    return losses
