"""The largest value under a window; NaN is larger than any number, as in torch."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_max_pool
from .gemm import multiple, store_tile
from .launch import block, common_unit, launch, window
from .patches import PATCH_W, corner_of_patch, patches_of, rows_of_patch
from .tiles import Tile


@triton.jit
def max_pool_kernel(
    x,
    y,
    height,
    width,
    channels,
    out_height,
    out_width,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    channels = multiple(channels, UNIT)
    image, patch_row, patch_col, tile_n = corner_of_patch(
        out_height, out_width, tl.cdiv(channels, BLOCK_N), BLOCK_M, PATCH_W
    )
    local = tl.arange(0, BLOCK_M)
    top = (patch_row + local // PATCH_W) * STRIDE_H - PAD_H
    left = (patch_col + local % PATCH_W) * STRIDE_W - PAD_W
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = cols < channels
    base = x + image * height * width * channels
    largest = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    for tap_h in range(KERNEL_H):
        # A window reaches over the image by half of its size at most: there it is given a pixel of both twice.
        row = tl.minimum(tl.maximum(top + tap_h, 0), height - 1)
        for tap_w in range(KERNEL_W):
            col = tl.minimum(tl.maximum(left + tap_w, 0), width - 1)
            source = base + (tl.cast(row * width + col, tl.int64) * channels)[:, None] + cols[None, :]
            values = tl.load(source, mask=exists[None, :], other=0.0).to(tl.float32)
            largest = tl.where((values > largest) | (values != values), values, largest)  # noqa: PLR0124 - true of NaN

    y += image * out_height * out_width * channels
    rows, limit = rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M, PATCH_W)
    store_tile(largest, None, None, y, rows, cols, limit, channels, channels, channels, "none")


def max_pool(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], tile: Tile
) -> Tensor:
    """The largest value under a window; NaN where one is under it.

    Arguments are those of `check_max_pool`, and one of ``tiles("max_pool", ...)``.

    Returns:
        ``[N, C, OH, OW]`` in channels-last memory.

    Raises:
        ValueError: they do not fit.
    """
    shape = check_max_pool(x, kernel, stride, padding)
    batch, channels, *out = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if batch and channels:
        grid = patches_of(shape, tile.block_m) * triton.cdiv(channels, tile.block_n)
        constants = window(kernel, stride, padding) | block(tile) | {"PATCH_W": PATCH_W}
        launch(max_pool_kernel, grid, x, y, *x.shape[2:], channels, *out, UNIT=common_unit(channels), **constants)
    return y
