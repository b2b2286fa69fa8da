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
def rows_of_patch(out_height, out_width, patch_row, patch_col, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Which pixels of the image the patch's are, and how many the image has; those outside of it are past the last."""
    local = tl.arange(0, BLOCK_M)
    row = patch_row + local // PATCH_W
    col = patch_col + local % PATCH_W
    limit = out_height * out_width
    return tl.where((row < out_height) & (col < out_width), row * out_width + col, limit), limit
