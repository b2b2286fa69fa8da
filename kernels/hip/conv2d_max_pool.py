"""A ResNet's stem in one kernel: what lies between its convolution and its pool goes to no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check, check_conv2d_max_pool
from .launch import ACTIVATIONS, check_kernel, check_sides, empty_image, launch
from .manifest import HipKernel

_TAPS, _CHANNELS = 7, 3
# Columns of the result that a workgroup computes side by side, and of one of several.
_ACROSS, _OF_SEVERAL = 56, 54


@dataclass(frozen=True)
class StemWeight:
    """The weight of `conv2d_max_pool` as its kernels take it: `packed`, beside the one that it was made of."""

    weight: Tensor
    packed: Tensor


def pack_conv2d_max_pool(weight: Tensor, kernel: HipKernel) -> StemWeight:
    """A weight ``[O, 3, 7, 7]`` for `kernel`: two words for each step and 16 lanes of a wave, zeros where none is.

    Which words of a row of the kernel those are, ``Stem`` in conv2d_max_pool.hip says.
    """
    out_channels = weight.shape[0]
    check(weight.shape[1:] == (_CHANNELS, _TAPS, _TAPS), f"weight must be [O, 3, 7, 7], not {list(weight.shape)}")
    of_word = 4 // weight.element_size()
    lead, run = of_word - 1, _TAPS * _CHANNELS
    words = -(-(lead + run) // of_word)
    half = -(-words // 4)
    steps = -(-_TAPS * half // 2)
    group = torch.arange(4)
    number = 2 * torch.arange(steps)[:, None] + group // 2
    word = group % 2 * (words - 2 * half) + number % half * 2
    value = (word[..., None, None] + torch.arange(2)[:, None]) * of_word + torch.arange(of_word) - lead
    twice = (group % 2 == 1)[:, None, None] & (value + lead < 2 * half * of_word)
    row = (number // half)[..., None, None]
    exists = (row < _TAPS) & ~twice & (value >= 0) & (value < run)
    place = torch.where(exists, row * run + value, _TAPS * run).flatten().to(weight.device)
    rows = F.pad(weight.permute(0, 2, 3, 1).flatten(1), (0, 1, 0, -out_channels % kernel.block[1]))
    return StemWeight(weight, rows[:, place])


def conv2d_max_pool(x: Tensor, weight: StemWeight, bias: Tensor | None, act: str, kernel: HipKernel) -> Tensor:
    """``max_pool2d(act(conv2d(x, weight, 2, 3) + bias), 3, 2, 1)``, accumulated in float32.

    Arguments are those of `check_conv2d_max_pool`, the weight one of `pack_conv2d_max_pool`, and one of
    ``load(arch).kernels("conv2d_max_pool", ...)``; others are a ValueError.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.
    """
    shape = check_conv2d_max_pool(x, weight.weight, bias, act)
    check_sides(x)
    batch, out_channels, *out = shape
    height, width = x.shape[2:]
    check_kernel(kernel, "conv2d_max_pool", x, (bias,), (x, weight.packed), (_CHANNELS * width, out_channels))
    columns = 1 if out[1] <= _ACROSS else -(-out[1] // _OF_SEVERAL)
    rows, channels = kernel.block
    grid = batch * -(-out[0] // rows) * columns * -(-out_channels // channels)
    check(grid < 2**31, f"{grid} bands are more than kernels count: split the batch")
    y = empty_image(x, shape)
    if batch:
        sizes = (batch, height, width, (height - 1) // 2 + 1, *out, out_channels)
        launch(kernel, grid, (x, weight.packed, bias, y, *sizes, ACTIVATIONS.index(act)))
    return y
