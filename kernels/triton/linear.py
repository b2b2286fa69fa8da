"""A linear layer with bias, residual and activation in one kernel."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_linear
from .gemm import accumulate, multiple, rows_of_tile, store_tile, tile_position
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def linear_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    m,
    n,
    k,
    stride_x,
    stride_residual,
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
    n, k = multiple(n, UNIT), multiple(k, UNIT)
    stride_x, stride_residual = multiple(stride_x, UNIT), multiple(stride_residual, UNIT)
    tile_m, tile_n = tile_position(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    x_rows = rows_of_tile(x, tile_m * BLOCK_M, m, stride_x, BLOCK_M)
    w_rows = rows_of_tile(weight, tile_n * BLOCK_N, n, k, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = accumulate(acc, x_rows, w_rows, k, BLOCK_K, EVEN_K)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    store_tile(acc, bias, residual, y, rows, cols, m, n, stride_residual, n, ACT)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, tile: Tile) -> Tensor:
    """``act(x @ weight.T + bias + residual)``, accumulated in float32.

    Arguments are those of `check_linear`, and one of ``tiles("linear", ...)``; others are a ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_linear(x, weight, bias, residual, act)
    m, k, n = x.shape[0], x.shape[-1], weight.shape[0]
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        stride_residual = n if residual is None else residual.stride(0)
        grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
        sizes = (m, n, k, x.stride(0), stride_residual)
        constants = {"UNIT": common_unit(*sizes[1:]), "ACT": act, "EVEN_K": k % tile.block_k == 0} | tile.arguments
        launch(linear_kernel, grid, x, weight, bias, residual, y, *sizes, **constants)
    return y
