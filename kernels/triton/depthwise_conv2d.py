"""A convolution in which each channel has a kernel of its own: nothing but memory and sums in registers."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_depthwise_conv2d
from .gemm import multiple, store_tile
from .launch import block, common_unit, launch, window
from .patches import PATCH_W, corner_of_patch, patches_of, rows_of_patch, sum_of_taps
from .tiles import Tile


@triton.jit
def depthwise_conv2d_kernel(
    x,
    weight,
    bias,
    residual,
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
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    # A program's pixels are a patch of one image, so the taps of neighbours meet in the first-level cache.
    channels = multiple(channels, UNIT)
    image, patch_row, patch_col, tile_n = corner_of_patch(
        out_height, out_width, tl.cdiv(channels, BLOCK_N), BLOCK_M, PATCH_W
    )
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = sum_of_taps(
        x, weight, image, patch_row, patch_col, cols, height, width, channels,
        KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, BLOCK_M, PATCH_W,
    )  # fmt: skip

    pixels = image * out_height * out_width
    y += pixels * channels
    if residual is not None:
        residual += pixels * channels
    rows, limit = rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M, PATCH_W)
    store_tile(acc, bias, residual, y, rows, cols, limit, channels, channels, channels, ACT)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    tile: Tile,
) -> Tensor:
    """``act(depthwise(x, weight, bias, stride, padding) + residual)``, accumulated in float32.

    Arguments are those of `check_depthwise_conv2d`, and one of ``tiles("depthwise_conv2d", ...)``.

    Returns:
        ``[N, C, OH, OW]`` in channels-last memory.

    Raises:
        ValueError: they do not fit.
    """
    shape = check_depthwise_conv2d(x, weight, bias, residual, act, stride, padding)
    batch, channels, *out = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if batch:
        grid = patches_of(shape, tile.block_m) * triton.cdiv(channels, tile.block_n)
        constants = window(weight.shape[:2], stride, padding) | block(tile) | {"PATCH_W": PATCH_W, "ACT": act}
        sizes = (*x.shape[2:], channels, *out)
        unit = common_unit(channels)
        launch(depthwise_conv2d_kernel, grid, x, weight, bias, residual, y, *sizes, UNIT=unit, **constants)
    return y
