"""A layer norm, then a linear layer with bias and activation, in one kernel that reads its rows once.

``norm(x) @ w.T = (d @ w.T - mean(d) * w.sum(1)) / sqrt(var(d) + eps)``, d being x less any one value a row: here the
mean of the row's first values, which lies within ``sqrt(k / BLOCK_K)`` standard deviations of the row's own.
"""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_norm_linear
from .gemm import multiple, rows_of_tile, store_tile, tile_position
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def accumulate_pivoted(
    x_rows, w_rows, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr
):
    """``d @ w.T``, and the sums of d and of its squares over each row, from pointers to rows of x and of w."""
    depth = tl.arange(0, BLOCK_K)
    first = tl.load(x_rows[:, None] + depth[None, :], mask=(depth < k)[None, :], other=0.0)
    # Half of a difference of halves does not overflow.
    part = 0.5 if x_rows.dtype.element_ty == tl.float16 else 1.0
    pivot = part * tl.sum(first.to(tl.float32), 1) / tl.minimum(k, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(0, k, BLOCK_K):
        x_tile = x_rows[:, None] + (start + depth)[None, :]
        w_tile = w_rows[None, :] + (start + depth)[:, None]
        if EVEN_K:
            x = tl.load(x_tile)
            w = tl.load(w_tile)
            away = part * x.to(tl.float32) - pivot[:, None]
        else:
            inside = start + depth < k
            x = tl.load(x_tile, mask=inside[None, :], other=0.0)
            w = tl.load(w_tile, mask=inside[:, None], other=0.0)
            away = tl.where(inside[None, :], part * x.to(tl.float32) - pivot[:, None], 0.0)
        rounded = away.to(x.dtype)
        acc = tl.dot(rounded, w, acc, input_precision="ieee")
        rounded = rounded.to(tl.float32)
        sums += rounded
        squares += rounded * rounded
    return acc, tl.sum(sums, 1) / part, tl.sum(squares, 1) / (part * part), 1 / part


@triton.jit
def norm_linear_kernel(
    x,
    weight,
    sums,
    bias,
    y,
    m,
    n,
    k,
    stride_x,
    eps,
    UNIT: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    n, k, stride_x = multiple(n, UNIT), multiple(k, UNIT), multiple(stride_x, UNIT)
    tile_m, tile_n = tile_position(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    x_rows = rows_of_tile(x, tile_m * BLOCK_M, m, stride_x, BLOCK_M)
    w_rows = rows_of_tile(weight, tile_n * BLOCK_N, n, k, BLOCK_N)
    acc, row_sums, squares, whole = accumulate_pivoted(x_rows, w_rows, k, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K)
    mean = row_sums / k
    variance = squares / k - mean * mean
    scale = tl.rsqrt(tl.where(variance < 0, 0.0, variance) + eps)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    of_columns = tl.load(sums + cols, mask=cols < n, other=0.0)
    acc = acc * (whole * scale)[:, None] - (mean * scale)[:, None] * of_columns[None, :]
    store_tile(acc, bias, None, y, rows, cols, m, n, 0, n, ACT)


def norm_linear(
    x: Tensor, weight: Tensor, sums: Tensor, bias: Tensor | None, eps: float, act: str, tile: Tile
) -> Tensor:
    """``act(norm(x) @ weight.T + bias)``, accumulated in float32; `x` is read once.

    Arguments are those of `check_norm_linear`, and one of ``tiles("norm_linear", ...)``; others are a ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_norm_linear(x, weight, sums, bias, eps, act)
    (m, k), n = x.shape, weight.shape[0]
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
        sizes = (m, n, k, x.stride(0))
        constants = {"UNIT": common_unit(*sizes[1:]), "ACT": act, "EVEN_K": k % tile.block_k == 0} | tile.arguments
        launch(norm_linear_kernel, grid, x, weight, sums, bias, y, *sizes, eps, **constants)
    return y
