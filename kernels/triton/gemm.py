"""The parts all matrix kernels share: which tile a program computes, the loop over K, and the end of a tile."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl

from .activation import activate


@triton.jit
def tile_position(m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Row and column of this program's tile. GROUP_M tiles of rows go over the columns together, sharing L2."""
    program = tl.program_id(0)
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    first = program // (GROUP_M * tiles_n) * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    within = program % (GROUP_M * tiles_n)
    return first + within % height, within // height


@triton.jit
def multiple(value, UNIT: tl.constexpr):
    """`value`, which the compiler then knows for a multiple of `UNIT`. A launch tells it of multiples of 16 only."""
    return value // UNIT * UNIT


@triton.jit
def rows_of_tile(matrix, start, count, stride, BLOCK: tl.constexpr):
    """Pointers ``[BLOCK]`` to rows from `start` on. Past the last one it repeats: loads need no mask, stores do."""
    local = tl.minimum(tl.arange(0, BLOCK), count - 1 - start)
    # The tile's place is one scalar: lanes are left with small offsets, which gfx9's buffer loads take.
    return matrix + tl.cast(start, tl.int64) * stride + tl.cast(local, tl.int64) * stride


@triton.jit
def accumulate(acc, x_rows, w_rows, k, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """``acc + x @ w.T`` over all of `k`, from pointers to rows of x ``[BLOCK_M]`` and of w ``[BLOCK_N]``."""
    depth = tl.arange(0, BLOCK_K)
    for start in range(0, k, BLOCK_K):
        x_tile = x_rows[:, None] + (start + depth)[None, :]
        w_tile = w_rows[None, :] + (start + depth)[:, None]
        if EVEN_K:
            x = tl.load(x_tile)
            w = tl.load(w_tile)
        else:
            inside = start + depth < k
            x = tl.load(x_tile, mask=inside[None, :], other=0.0)
            w = tl.load(w_tile, mask=inside[:, None], other=0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    return acc


@triton.jit
def store_tile(acc, bias, residual, y, rows, cols, m, n, stride_residual, stride_y, ACT: tl.constexpr):
    """``y[rows, cols] = act(acc + bias + residual)``, where rows and columns exist."""
    if bias is not None:
        acc += tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)[None, :]
    inside = (rows < m)[:, None] & (cols < n)[None, :]
    rows = tl.cast(rows, tl.int64)[:, None]
    if residual is not None:
        acc += tl.load(residual + rows * stride_residual + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y + rows * stride_y + cols[None, :], activate(acc, ACT).to(y.dtype.element_ty), mask=inside)
