"""A convolution with bias, residual and activation in one kernel: implicit matrix product over channels-last memory."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_conv2d
from .gemm import multiple, rows_of_tile, store_tile, tile_position
from .launch import common_unit, launch, window
from .tiles import Tile


@triton.jit
def conv2d_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    pixels,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
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
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    # Rows are output pixels. In channels-last memory the pixels under one row of the kernel are one contiguous run of
    # KERNEL_W * channels values, in x and in the weight alike: the depth is walked run by run, without any division,
    # and few channels (a stem's 3) fill a step as well as many do. The run leaves the image at its left or right
    # exactly where its position leaves 0 .. width * channels.
    channels = multiple(channels, UNIT)
    out_channels = multiple(out_channels, UNIT)
    tile_m, tile_n = tile_position(pixels, out_channels, BLOCK_M, BLOCK_N, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    run = KERNEL_W * channels
    line = width * channels

    pixel = tl.minimum(rows, pixels - 1)
    top = pixel // out_width % out_height * STRIDE_H - PAD_H
    left = (pixel % out_width * STRIDE_W - PAD_W) * channels
    image = pixel // (out_width * out_height)
    first_image = tile_m * BLOCK_M // (out_width * out_height)
    # The lanes' own offsets start at the unpadded corner, so none is negative, as gfx9's buffer loads need it;
    # all that is uniform, the padding too, goes into the scalar base.
    # (Casts are functions: an argument that is 1 is compiled in and has no methods.)
    wide_line = tl.cast(line, tl.int64)
    offset = ((image - first_image) * height + top + PAD_H) * wide_line + left + PAD_W * channels
    x += (tl.cast(first_image, tl.int64) * height - PAD_H) * wide_line - PAD_W * channels
    w_rows = rows_of_tile(weight, tile_n * BLOCK_N, out_channels, KERNEL_H * run, BLOCK_N)

    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    tap = 0
    start = 0
    for _ in range(0, KERNEL_H * tl.cdiv(run, BLOCK_K)):
        in_run = start + depth < run
        position = left[:, None] + (start + depth)[None, :]
        in_image = (position >= 0) & (position < line) & ((top + tap >= 0) & (top + tap < height))[:, None]
        x_tile = x + (tap * wide_line + start) + offset[:, None] + depth[None, :]
        w_tile = w_rows[None, :] + (tap * run + start + depth)[:, None]
        values = tl.load(x_tile, mask=in_image & in_run[None, :], other=0.0)
        weights = tl.load(w_tile, mask=in_run[:, None], other=0.0)
        acc = tl.dot(values, weights, acc, input_precision="ieee")
        start += BLOCK_K
        tap = tl.where(start < run, tap, tap + 1)
        start = tl.where(start < run, start, 0)
    store_tile(acc, bias, residual, y, rows, cols, pixels, out_channels, out_channels, out_channels, ACT)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    tile: Tile,
) -> Tensor:
    """``act(conv2d(x, weight, bias, stride, padding) + residual)``, accumulated in float32.

    Arguments are those of `check_conv2d`, and one of ``tiles("conv2d", ...)``; others are a ValueError.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.
    """
    shape = check_conv2d(x, weight, bias, residual, act, stride, padding)
    (_, channels, height, width), kernel = x.shape, weight.shape[1:3]
    batch, out_channels, *out = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = batch * out[0] * out[1]
    if pixels:
        grid = triton.cdiv(pixels, tile.block_m) * triton.cdiv(out_channels, tile.block_n)
        sizes = (pixels, height, width, channels, *out, out_channels)
        constants = window(kernel, stride, padding) | tile.arguments
        unit = common_unit(channels, out_channels)
        launch(conv2d_kernel, grid, x, weight, bias, residual, y, *sizes, UNIT=unit, ACT=act, **constants)
    return y
