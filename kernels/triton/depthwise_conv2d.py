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
from .patches import PATCH_W, corner_of_patch, patches_of, rows_of_patch
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
    local = tl.arange(0, BLOCK_M)
    top = (patch_row + local // PATCH_W) * STRIDE_H - PAD_H
    left = (patch_col + local % PATCH_W) * STRIDE_W - PAD_W
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = cols < channels

    # As in the convolution: lanes' offsets are never negative, all that is uniform is in the scalar base.
    line = tl.cast(width, tl.int64) * channels
    base = x + (image * height + patch_row * STRIDE_H - PAD_H) * line
    base += tl.cast(patch_col * STRIDE_W - PAD_W, tl.int64) * channels
    offset = tl.cast(local // PATCH_W * STRIDE_H, tl.int64) * line + local % PATCH_W * STRIDE_W * channels

    # Rows of taps are a loop, or all their loads are in flight at once. What ends the loop of a tall kernel is kept
    # from the compiler, which would unroll it: a program's second index is 0.
    taps_h = KERNEL_H + tl.program_id(1) if KERNEL_H > 3 else KERNEL_H
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tap_h in range(taps_h):
        in_height = (top + tap_h >= 0) & (top + tap_h < height)
        for tap_w in tl.static_range(KERNEL_W):
            inside = in_height & (left + tap_w >= 0) & (left + tap_w < width)
            source = base + (tap_h * line + tap_w * channels) + offset[:, None] + cols[None, :]
            values = tl.load(source, mask=inside[:, None] & exists[None, :], other=0.0)
            tap = tl.load(weight + (tap_h * KERNEL_W + tap_w) * channels + cols, mask=exists, other=0.0)
            acc += values.to(tl.float32) * tap.to(tl.float32)[None, :]

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
