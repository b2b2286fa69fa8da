"""Parts of the kernels of layer norms: a block of rows, their mean and deviation, and what is stored."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl

from .launch import common_unit
from .tiles import Tile


def constants_of(tile: Tile, n: int, *strides: int) -> dict[str, int]:
    """Those of a launch on rows of `n` values, which lie `strides` apart."""
    names = ("BLOCK_M", "BLOCK_N", "num_warps")
    return {"UNIT": common_unit(n, *strides), "WHOLE": n <= tile.block_n} | {
        name: tile.arguments[name] for name in names
    }


@triton.jit
def load_rows(x, residual, places, inside, others):
    """``x + residual`` in float32, rounded as it would be in memory; zeros outside. `residual` may be None."""
    values = tl.load(x + places, mask=inside, other=0.0)
    if residual is not None:
        total = values.to(tl.float32) + tl.load(residual + others, mask=inside, other=0.0).to(tl.float32)
        values = total.to(x.dtype.element_ty)
    return values.to(tl.float32)


@triton.jit
def normed(values, mean, missing, scale, weight, bias, cols, n):
    """``(values - mean - missing) * scale * weight + bias``; weight and bias may be None."""
    result = ((values - mean[:, None]) - missing[:, None]) * scale[:, None]
    if weight is not None:
        result *= tl.load(weight + cols, mask=cols < n, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        result += tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)[None, :]
    return result


@triton.jit
def norm_rows(
    x, residual, weight, bias, total, y, m, n, stride_x, stride_residual, stride_y, eps,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """``y = norm(x + residual)`` of BLOCK_M rows, and the sum itself to `total` where there is a residual.

    WHOLE: rows have no more than BLOCK_N columns, and are read once; others are read three times. The mean is rounded;
    how much of it is missing is found beside the variance, and counts where it is large beside the deviation.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    local = tl.arange(0, BLOCK_N)
    there = (rows < m)[:, None]
    at_x = tl.cast(rows, tl.int64)[:, None] * stride_x
    at_residual = tl.cast(rows, tl.int64)[:, None] * stride_residual
    at_y = tl.cast(rows, tl.int64)[:, None] * stride_y
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if WHOLE:
        inside = there & (local < n)[None, :]
        values = load_rows(x, residual, at_x + local[None, :], inside, at_residual + local[None, :])
        mean = tl.sum(values, 1) / n
        away = tl.where(inside, values - mean[:, None], 0.0)
        missing = tl.sum(away, 1) / n
        variance = tl.sum(away * away, 1) / n - missing * missing
        scale = tl.rsqrt(tl.where(variance < 0, 0.0, variance) + eps)
        if residual is not None:
            tl.store(total + at_y + local[None, :], values.to(y.dtype.element_ty), mask=inside)
        result = normed(values, mean, missing, scale, weight, bias, local, n)
        tl.store(y + at_y + local[None, :], result.to(y.dtype.element_ty), mask=inside)
    else:
        for start in range(0, n, BLOCK_N):
            cols = start + local
            inside = there & (cols < n)[None, :]
            sums += load_rows(x, residual, at_x + cols[None, :], inside, at_residual + cols[None, :])
        mean = tl.sum(sums, 1) / n
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, n, BLOCK_N):
            cols = start + local
            inside = there & (cols < n)[None, :]
            values = load_rows(x, residual, at_x + cols[None, :], inside, at_residual + cols[None, :])
            away = tl.where(inside, values - mean[:, None], 0.0)
            sums += away
            squares += away * away
        missing = tl.sum(sums, 1) / n
        variance = tl.sum(squares, 1) / n - missing * missing
        scale = tl.rsqrt(tl.where(variance < 0, 0.0, variance) + eps)
        for start in range(0, n, BLOCK_N):
            cols = start + local
            inside = there & (cols < n)[None, :]
            values = load_rows(x, residual, at_x + cols[None, :], inside, at_residual + cols[None, :])
            if residual is not None:
                tl.store(total + at_y + cols[None, :], values.to(y.dtype.element_ty), mask=inside)
            result = normed(values, mean, missing, scale, weight, bias, cols, n)
            tl.store(y + at_y + cols[None, :], result.to(y.dtype.element_ty), mask=inside)
