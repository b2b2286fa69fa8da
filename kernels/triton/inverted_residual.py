"""A 1x1, a depthwise and a 1x1 convolution in one kernel: what lies between them goes to no memory.

Triton has no way to share what one pixel's neighbours made, so the first convolution is repeated for every tap.
"""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from updp_rt.ops.checks import Pair

from ..checks import check_inverted_residual, check_inverted_residual_weights
from ..checks.inverted_residual import InvertedResidualWeights
from .activation import activate
from .gemm import multiple, rows_of_tile, store_tile
from .launch import common_unit, launch, window
from .patches import PATCH_W, corner_of_patch, patches_of, rows_of_patch
from .tiles import Tile


@triton.jit
def expand(acc, pixels, offset, inside, w_rows, channels, BLOCK_K: tl.constexpr):
    """``acc`` and the product of pixels, those `inside` the image, at an `offset` each, with rows of the weight."""
    for first in range(0, channels, BLOCK_K):
        channel = first + tl.arange(0, BLOCK_K)
        given = channel < channels
        source = pixels + offset[:, None] + channel[None, :]
        values = tl.load(source, mask=inside[:, None] & given[None, :], other=0.0)
        weights = tl.load(w_rows[None, :] + channel[:, None], mask=given[:, None], other=0.0)
        acc = tl.dot(values, weights, acc, input_precision="ieee")
    return acc


@triton.jit
def inverted_residual_kernel(
    x,
    w_pw,
    b_pw,
    w_dw,
    b_dw,
    w_pwl,
    b_pwl,
    residual,
    y,
    height,
    width,
    channels,
    expanded,
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
    # A program's rows are a patch of one image's pixels, as in depthwise_pointwise.
    channels, expanded = multiple(channels, UNIT), multiple(expanded, UNIT)
    out_channels = multiple(out_channels, UNIT)
    image, patch_row, patch_col, tile_n = corner_of_patch(
        out_height, out_width, tl.cdiv(out_channels, BLOCK_N), BLOCK_M, PATCH_W
    )
    local = tl.arange(0, BLOCK_M)
    top = (patch_row + local // PATCH_W) * STRIDE_H - PAD_H
    left = (patch_col + local % PATCH_W) * STRIDE_W - PAD_W
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)

    line = tl.cast(width, tl.int64) * channels
    base = x + (image * height + patch_row * STRIDE_H - PAD_H) * line
    base += tl.cast(patch_col * STRIDE_W - PAD_W, tl.int64) * channels
    offset = tl.cast(local // PATCH_W * STRIDE_H, tl.int64) * line + local % PATCH_W * STRIDE_W * channels
    pwl_rows = rows_of_tile(w_pwl, tile_n * BLOCK_N, out_channels, expanded, BLOCK_N)

    # Taps are a loop whose end the compiler does not know, or it would unroll them: a program's second index is 0.
    taps = KERNEL_H * KERNEL_W + tl.program_id(1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, expanded, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        exists = depth < expanded
        pw_rows = rows_of_tile(w_pw, start, expanded, channels, BLOCK_K)
        mixed = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        for tap in range(taps):
            tap_h, tap_w = tap // KERNEL_W, tap % KERNEL_W
            inside = (top + tap_h >= 0) & (top + tap_h < height) & (left + tap_w >= 0) & (left + tap_w < width)
            pixels = base + (tap_h * line + tap_w * channels)
            between = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
            between = expand(between, pixels, offset, inside, pw_rows, channels, BLOCK_K)
            if b_pw is not None:
                between += tl.load(b_pw + depth, mask=exists, other=0.0).to(tl.float32)[None, :]
            # Beside the image are zeros; past the end rows of w_pw repeat, and nothing may be left of them.
            between = tl.where(inside[:, None] & exists[None, :], activate(between, ACT), 0.0)
            weight = tl.load(w_dw + tap * expanded + depth, mask=exists, other=0.0)
            mixed += between.to(x.dtype.element_ty).to(tl.float32) * weight.to(tl.float32)[None, :]
        if b_dw is not None:
            mixed += tl.load(b_dw + depth, mask=exists, other=0.0).to(tl.float32)[None, :]
        mixed = activate(mixed, ACT).to(x.dtype.element_ty)
        weights = tl.load(pwl_rows[None, :] + depth[:, None], mask=exists[:, None], other=0.0)
        acc = tl.dot(mixed, weights, acc, input_precision="ieee")

    pixels = image * out_height * out_width
    y += pixels * out_channels
    if residual is not None:
        residual += pixels * out_channels
    rows, limit = rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M, PATCH_W)
    store_tile(acc, b_pwl, residual, y, rows, cols, limit, out_channels, out_channels, out_channels, "none")


def pack_inverted_residual(weights: InvertedResidualWeights, tile: Tile) -> InvertedResidualWeights:
    """`weights` as `inverted_residual` takes them for any tile: as they are; ValueError unless they are its weights."""
    check_inverted_residual_weights(weights)
    return weights


def inverted_residual(
    x: Tensor,
    weights: InvertedResidualWeights,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
    tile: Tile,
) -> Tensor:
    """``pwl(act(dw(act(pw(x) + b_pw), stride, padding) + b_dw)) + b_pwl + residual``, accumulated in float32.

    What lies between the convolutions is rounded to x's dtype, as it would be in memory. Arguments are those of
    `check_inverted_residual`, weights of `pack_inverted_residual`, and one of ``tiles("inverted_residual", ...)``.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.

    Raises:
        ValueError: they do not fit.
    """
    w_pw, _, w_dw, _, w_pwl, _ = weights
    (expanded, channels), (kernel_h, kernel_w) = w_pw.shape, w_dw.shape[:2]
    sizes = (channels, w_pwl.shape[0], kernel_h, kernel_w)
    shape = check_inverted_residual(x, w_pw, sizes, residual, act, stride, padding)
    batch, out_channels, *out = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if batch:
        grid = patches_of(shape, tile.block_m) * triton.cdiv(out_channels, tile.block_n)
        tensors, places = (x, *weights, residual, y), (*x.shape[2:], channels, expanded, *out, out_channels)
        constants = window((kernel_h, kernel_w), stride, padding) | tile.arguments | {"PATCH_W": PATCH_W, "ACT": act}
        del constants["GROUP_M"]
        unit = common_unit(channels, expanded, out_channels)
        launch(inverted_residual_kernel, grid, *tensors, *places, UNIT=unit, **constants)
    return y
