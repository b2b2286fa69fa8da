"""The mean of each channel over a whole image."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_average_pool
from .gemm import multiple
from .launch import block, common_unit, launch
from .tiles import Tile


@triton.jit
def average_pool_kernel(x, y, pixels, channels, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    channels = multiple(channels, UNIT)
    tiles_n = tl.cdiv(channels, BLOCK_N)
    program = tl.program_id(0)
    image = tl.cast(program // tiles_n, tl.int64)
    cols = program % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = cols < channels
    base = x + image * pixels * channels
    rows = tl.arange(0, BLOCK_M)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, pixels, BLOCK_M):
        source = base + (tl.cast(start + rows, tl.int64) * channels)[:, None] + cols[None, :]
        inside = (start + rows < pixels)[:, None] & exists[None, :]
        sums += tl.load(source, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(sums, 0) / pixels
    tl.store(y + image * channels + cols, mean.to(y.dtype.element_ty), mask=exists)


def average_pool(x: Tensor, tile: Tile) -> Tensor:
    """The mean of each channel over all pixels, summed in float32.

    Arguments are those of `check_average_pool`, and one of ``tiles("average_pool", ...)``.

    Returns:
        ``[N, C]``, contiguous.

    Raises:
        ValueError: they do not fit.
    """
    batch, channels = check_average_pool(x)
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    if batch and channels:
        grid = batch * triton.cdiv(channels, tile.block_n)
        sizes = (x.shape[2] * x.shape[3], channels)
        launch(average_pool_kernel, grid, x, y, *sizes, UNIT=common_unit(channels), **block(tile))
    return y
