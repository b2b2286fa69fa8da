"""The mean of each channel over a whole image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_average_pool
from .launch import check_kernel, launch, tiles
from .manifest import HipKernel


def average_pool(x: Tensor, kernel: HipKernel) -> Tensor:
    """The mean of each channel over all pixels, summed in float32.

    Arguments are those of `check_average_pool`, and one of ``load(arch).kernels("average_pool", ...)``; others are a
    ValueError.

    Returns:
        ``[N, C]``, contiguous.
    """
    batch, channels = check_average_pool(x)
    check_kernel(kernel, "average_pool", x, (), (x,), (channels,))
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    if batch and channels:
        launch(kernel, tiles(kernel, batch, channels), (x, y, x.shape[2] * x.shape[3], channels))
    return y
