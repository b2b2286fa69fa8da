"""Stage 1: train all subnets at once, so that they can be compared without training each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.blocks import ProgressiveBlock, progressive_blocks, set_lambda, take_bodies
from updp_rt.blocks.parts import APART, JOINED
from updp_rt.pruning.trainer import Losses

# Steps of the subnet below which a supernet is not trained unless that is asked for. Trained for 250 steps or fitted to
# the baseline alone, it orders subnets about alike (the study `kendall`), and what its passes do for the subnet instead
# was worth more than a better order (`field_cnn`, one seed). Where the limit lies was not measured.
FEW = 10_000


def sandwich_losses(
    seed: int, random_subnets: int, label_smoothing: float = 0.0, segments: Sequence[Sequence[str]] = ()
) -> Losses:
    """Losses of one step by the sandwich rule with in-place distillation (Yu & Huang, ICCV 2019).

    The largest subnet (nothing pruned) learns the labels; the smallest (everything pruned) and some random ones learn
    the largest one's outputs of that same step. The random subnets depend on the seed and the step alone, so all
    processes and resumed runs draw the same. Blocks that may take several pruned bodies draw one for each subnet, for
    the smallest too: no body is trained more than another. Of the pairs in `segments`, neighbours that may be joined,
    half of those that are pruned are.
    """

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        count = 2 + random_subnets
        blocks = progressive_blocks(model)
        several = {name: block.bodies for name, block in blocks.items() if len(block.bodies) > 1}
        joins = {second: first for first, second in segments}
        take_bodies(
            model, {name: blocks[name].bodies[0] for name in [*several, *joins]}
        )  # whatever the step before left
        set_lambda(model, 0.0)
        logits = model(images)
        yield F.cross_entropy(logits, labels, label_smoothing=label_smoothing) / count
        targets = logits.detach().softmax(-1)
        names = list(blocks)
        rng = random.Random(f"{seed}/{step}")
        subnets = [rng.sample(names, rng.randint(1, max(1, len(names) - 1))) for _ in range(random_subnets)]
        for chosen in [names, *subnets]:
            bodies = {name: rng.choice(bodies) for name, bodies in several.items()}
            for second, first in joins.items():
                joined = {first, second} <= set(chosen) and rng.random() < 0.5
                bodies[second] = (JOINED if joined else APART) + bodies.get(second, blocks[second].body)
            take_bodies(model, bodies)
            set_lambda(model, 1.0, chosen)
            yield F.cross_entropy(model(images), targets) / count

    return losses


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Fit every pruned form's norms to the baseline on some training images, see `ProgressiveBlock.calibrate`.

    Where blocks may take several pruned bodies, those of each.
    """
    set_lambda(model, 0.0)
    training = model.training
    model.eval()
    blocks = progressive_blocks(model).values()
    hooks = [block.register_forward_pre_hook(_calibrate_first, with_kwargs=True) for block in blocks]
    try:
        model(images.to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


def _calibrate_first(block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
    assert isinstance(block, ProgressiveBlock)
    for body in reversed(block.bodies):  # and leads to its first in the end
        block.take(body)
        block.calibrate(*args, **kwargs)
