"""Weights of two products in a row as HIP's kernels take them (panels.h): a record a step of the values between.

A record has panels of `side` rows and `side` values of depth, 64 bytes a row: those of the first weight along its
depth, then those of the second along its rows; then the first bias, in float32. Zeros fill up matrices.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .manifest import HipKernel

_ROW = 64  # bytes of a panel's row, which are four chunks of 16


def panel_side(dtype: torch.dtype) -> int:
    """Rows of a panel, and values in one."""
    return _ROW // dtype.itemsize


def pack_panels(w1: Tensor, b1: Tensor | None, w2: Tensor, k: int, n: int, *others: Tensor) -> Tensor:
    """Both weights in one ``[steps, values of a record]`` of their dtype.

    Args:
        w1, b1: ``[H, K]``, ``[H]`` or None.
        w2: ``[N, H]``.
        k, n: to what K and N are filled up.
        others: what records end with, ``[H, count]`` each; float32 is kept, bit by bit.
    """
    side, (hidden, depth), dtype = panel_side(w1.dtype), w1.shape, w1.dtype
    steps = -(-hidden // side)
    more = steps * side - hidden
    first = F.pad(w1, (0, k - depth, 0, more)).view(steps, side, k // side, side).transpose(1, 2)
    second = F.pad(w2, (0, more, 0, n - w2.shape[0])).view(n // side, side, steps, side).permute(2, 0, 1, 3)
    panels = _turned(torch.cat((first, second), 1))
    bias = w1.new_zeros(hidden, dtype=torch.float32) if b1 is None else b1.float()
    ends = [F.pad(end, (0, 0, 0, more)).view(steps, side, -1).transpose(1, 2) for end in (bias.view(-1, 1), *others)]
    return torch.cat([panels.flatten(1), *(end.reshape(steps, -1).view(dtype) for end in ends)], 1)


def least_room(kernels: Iterable[HipKernel]) -> tuple[HipKernel, ...]:
    """Of kernels that all take some weights, those that fill them up the least: K and N of a block come last."""

    def room(kernel: HipKernel) -> int:
        return kernel.block[-1] * kernel.block[-2]

    found = tuple(kernels)
    least = min(map(room, found), default=0)
    return tuple(kernel for kernel in found if room(kernel) == least)


def _turned(panels: Tensor) -> Tensor:
    """Panels ``[..., side, side]`` with the chunks of each row in the order in which panels.h looks for them."""
    side = panels.shape[-1]
    row = torch.arange(side, device=panels.device).view(-1, 1)
    turn = row // 2 % 2 + row // 8 % 2 * 2 if panels.dtype.itemsize == 2 else row // 2 % 4
    order = torch.arange(4, device=panels.device) ^ turn
    chunks = panels.unflatten(-1, (4, -1))
    return chunks.gather(-2, order.view(*(1,) * (panels.dim() - 2), side, 4, 1).expand_as(chunks)).flatten(-2)
