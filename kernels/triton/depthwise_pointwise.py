"""A depthwise convolution and the 1x1 convolution after it in one kernel: nothing between them goes to memory."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_depthwise_pointwise
from .gemm import multiple, rows_of_tile, store_tile
from .launch import common_unit, launch, window
from .patches import PATCH_W, corner_of_patch, patches_of, rows_of_patch, sum_of_taps
from .tiles import Tile


@triton.jit
def depthwise_pointwise_kernel(
    x,
    w_dw,
    b_dw,
    w_pw,
    b_pw,
    residual,
    y,
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
    PATCH_W: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    # A program's rows are a patch of one image's pixels, so the taps of neighbours meet in the first-level cache.
    # Programs of one patch (its tiles of columns) are neighbours too, and find the patch in L2.
    channels = multiple(channels, UNIT)
    out_channels = multiple(out_channels, UNIT)
    image, patch_row, patch_col, tile_n = corner_of_patch(
        out_height, out_width, tl.cdiv(out_channels, BLOCK_N), BLOCK_M, PATCH_W
    )
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    w_rows = rows_of_tile(w_pw, tile_n * BLOCK_N, out_channels, channels, BLOCK_N)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, channels, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        exists = depth < channels
        mixed = sum_of_taps(
            x, w_dw, image, patch_row, patch_col, depth, height, width, channels,
            KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, BLOCK_M, PATCH_W,
        )  # fmt: skip
        if b_dw is not None:
            mixed += tl.load(b_dw + depth, mask=exists, other=0.0).to(tl.float32)[None, :]
        weights = tl.load(w_rows[None, :] + depth[:, None], mask=exists[:, None], other=0.0)
        acc = tl.dot(mixed.to(x.dtype.element_ty), weights, acc, input_precision="ieee")

    pixels = image * out_height * out_width
    y += pixels * out_channels
    if residual is not None:
        residual += pixels * out_channels
    rows, limit = rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M, PATCH_W)
    store_tile(acc, b_pw, residual, y, rows, cols, limit, out_channels, out_channels, out_channels, ACT)


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    tile: Tile,
) -> Tensor:
    """``act(conv1x1(depthwise(x, w_dw, b_dw, stride, padding), w_pw, b_pw) + residual)``.

    Both are accumulated in float32; the depthwise result is rounded to x's dtype, as it would be in memory.

    Arguments are those of `check_depthwise_pointwise`, and one of ``tiles("depthwise_pointwise", ...)``; others are a
    ValueError.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.
    """
    shape = check_depthwise_pointwise(x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)
    (_, channels, height, width), kernel = x.shape, w_dw.shape[:2]
    batch, out_channels, *out = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if batch:
        grid = patches_of(shape, tile.block_m) * triton.cdiv(out_channels, tile.block_n)
        tensors = (x, w_dw, b_dw, w_pw, b_pw, residual, y)
        sizes = (height, width, channels, *out, out_channels)
        constants = window(kernel, stride, padding) | tile.arguments | {"PATCH_W": PATCH_W, "ACT": act}
        del constants["GROUP_M"]
        unit = common_unit(channels, out_channels)
        launch(depthwise_pointwise_kernel, grid, *tensors, *sizes, UNIT=unit, **constants)
    return y
