"""The largest value under a window."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_max_pool
from .launch import check_kernel, check_sides, empty_image, launch, tiles
from .manifest import HipKernel


def max_pool(
    x: Tensor, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], kernel: HipKernel
) -> Tensor:
    """The largest value under a window; NaN where one is under it.

    Arguments are those of `check_max_pool`, and one of ``load(arch).kernels("max_pool", ...)``; others are a
    ValueError.

    Returns:
        ``[N, C, OH, OW]`` in channels-last memory.
    """
    shape = check_max_pool(x, window, stride, padding)
    check_sides(x)
    batch, channels, *out = shape
    check_kernel(kernel, "max_pool", x, (), (x,), (channels,))
    y = empty_image(x, shape)
    if batch and channels:
        sizes = (batch, *x.shape[2:], channels, *out, *window, *stride, *padding)
        launch(kernel, tiles(kernel, batch * out[0] * out[1], channels), (x, y, *sizes))
    return y
