"""Whether the layers that read a channel drop it together or each for itself, as the model's outputs tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from updp_rt.channels.atoms import Bools
from updp_rt.channels.check import output_changes
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.importance import Scores
from updp_rt.channels.inputs import Inputs
from updp_rt.channels.masks import choose_masks
from updp_rt.channels.trace import Trace


def choose_coupling(
    model: nn.Module,
    trace: Trace,
    scores: Scores,
    amount: float,
    batches: Sequence[Inputs],
    *,
    limits: Mapping[str, float] | None = None,
    exact: bool = True,
) -> tuple[dict[str, Bools], tuple[str, ...]]:
    """Masks of the global scope, free or constrained, whichever change the outputs on images less; and a note of it.

    Free masks lose less score for as many parameters, always; but scores only stand for what the outputs lose.

    Args:
        batches: images ``[N, C, H, W]``, or whatever else the model takes.
        exact: compare outputs in float64, which the model must allow.

    Raises:
        ChannelError: as `choose_masks`.
    """
    free = choose_masks(trace, scores, amount, limits=limits)
    try:
        coupled = choose_masks(trace, scores, amount, constrained=True, limits=limits)
    except ChannelError:  # limits of some layers hold back all that share with them
        return free, ()
    if all(np.array_equal(mask, coupled[name]) for name, mask in free.items()):
        return free, ()
    apart, together = output_changes(model, (free, coupled), batches, exact=exact)
    if apart <= together:
        return free, ()
    how = f"by {together:.1%}, by {apart:.1%} if each dropped what it wants"
    return coupled, (f"layers that read the same channels drop them together: that changes the outputs {how}",)
