"""What the tests of channel pruning share: random masks, and all exports of one model from one trace."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from torch import Tensor, nn

from updp_rt.channels import plan
from updp_rt.channels.export import export_model
from updp_rt.channels.layout import Layout, Masks, find_alive
from updp_rt.channels.order import find_order
from updp_rt.channels.plan import STRATEGIES, Copies, choose, choose_naive, count_copies
from updp_rt.channels.trace import Trace, trace


def random_masks(found: Trace, share: float, seed: int) -> dict[str, np.ndarray]:
    """Every layer keeps about that share of its inputs, and at least one."""
    draw = np.random.default_rng(seed)
    masks = {}
    for name, consumer in found.prunable.items():
        masks[name] = draw.random(len(consumer.channels)) < share
        masks[name][draw.integers(len(masks[name]))] = True
    return masks


def half_masks(found: Trace, seed: int) -> dict[str, np.ndarray]:
    """Every layer keeps a random half of its inputs."""
    draw = np.random.default_rng(seed)
    widths = {name: len(consumer.channels) for name, consumer in found.prunable.items()}
    return {name: draw.permutation(width) < max(1, width // 2) for name, width in widths.items()}


def all_exports(
    model: nn.Module, example: Tensor, masks: Masks, found: Trace | None = None
) -> dict[str, tuple[nn.Module, Copies]]:
    """The exported model and what it copies, for every way of exporting it."""
    found = found or trace(model, example)
    alive = find_alive(found, masks)
    plain, ordered = Layout(alive), Layout(alive, find_order(found, masks, alive).occupant)
    plans = {strategy: (ordered, choose(found, masks, ordered, strategy)) for strategy in STRATEGIES}
    # Maps as small as the tests' are read whole; where arithmetic is dear, they are not.
    with patch.object(plan, "MAC", 1e3):
        plans["dear"] = (ordered, choose(found, masks, ordered, "cheapest"))
    plans["naive"] = (plain, choose_naive(found, masks, plain))
    return {
        name: (export_model(model, found, masks, layout, chosen), count_copies(found, layout, chosen))
        for name, (layout, chosen) in plans.items()
    }
