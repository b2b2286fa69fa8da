"""Patches of an image's results: what a program of the depthwise and pooling kernels computes."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl

PATCH_W = 8


def patches_of(shape: tuple[int, ...], block_m: int) -> int:
    """Patches of `block_m` results each that cover images ``[N, C, H, W]``."""
    batch, _, height, width = shape
    return batch * -(-height // (block_m // PATCH_W)) * -(-width // PATCH_W)


@triton.jit
def corner_of_patch(out_height, out_width, tiles_n, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Image, first row and column of this program's patch, and its tile of channels. A patch's are neighbours."""
    patches_w = tl.cdiv(out_width, PATCH_W)
    patches_h = tl.cdiv(out_height, BLOCK_M // PATCH_W)
    program = tl.program_id(0)
    patch = program // tiles_n
    image = tl.cast(patch // (patches_w * patches_h), tl.int64)
    row = patch // patches_w % patches_h * (BLOCK_M // PATCH_W)
    return image, row, patch % patches_w * PATCH_W, program % tiles_n


@triton.jit
def sum_of_taps(
    x,
    weight,
    image,
    patch_row,
    patch_col,
    cols,
    height,
    width,
    channels,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """The depthwise convolution of the patch's pixels in channels `cols`, ``[BLOCK_M, len(cols)]`` in float32."""
    local = tl.arange(0, BLOCK_M)
    top = (patch_row + local // PATCH_W) * STRIDE_H - PAD_H
    left = (patch_col + local % PATCH_W) * STRIDE_W - PAD_W
    # As in the convolution: lanes' offsets are never negative, all that is uniform is in the scalar base.
    line = tl.cast(width, tl.int64) * channels
    base = x + (image * height + patch_row * STRIDE_H - PAD_H) * line
    base += tl.cast(patch_col * STRIDE_W - PAD_W, tl.int64) * channels
    offset = tl.cast(local // PATCH_W * STRIDE_H, tl.int64) * line + local % PATCH_W * STRIDE_W * channels

    # Rows of taps are a loop, or all their loads are in flight at once: in float32, Triton 3.6 would unroll seven and
    # spill. What ends the loop of a tall kernel is therefore kept from the compiler: a program's second index is 0.
    taps_h = KERNEL_H + tl.program_id(1) if KERNEL_H > 3 else KERNEL_H
    exists = cols < channels
    total = tl.zeros((BLOCK_M, cols.shape[0]), tl.float32)
    for tap_h in range(taps_h):
        in_height = (top + tap_h >= 0) & (top + tap_h < height)
        for tap_w in tl.static_range(KERNEL_W):
            inside = in_height & (left + tap_w >= 0) & (left + tap_w < width)
            source = base + (tap_h * line + tap_w * channels) + offset[:, None] + cols[None, :]
            values = tl.load(source, mask=inside[:, None] & exists[None, :], other=0.0)
            tap = tl.load(weight + (tap_h * KERNEL_W + tap_w) * channels + cols, mask=exists, other=0.0)
            total += values.to(tl.float32) * tap.to(tl.float32)[None, :]
    return total


@triton.jit
def rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Which pixels of the image the patch's are, and how many the image has; those outside of it are past the last."""
    local = tl.arange(0, BLOCK_M)
    row = patch_row + local // PATCH_W
    col = patch_col + local % PATCH_W
    limit = out_height * out_width
    return tl.where((row < out_height) & (col < out_width), row * out_width + col, limit), limit
