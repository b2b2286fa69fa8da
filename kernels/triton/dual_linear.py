"""Two linear layers whose sum gets a bias and an activation, in one kernel."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_dual_linear
from .gemm import accumulate, multiple, rows_of_tile, store_tile, tile_position
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def dual_linear_kernel(
    x,
    a,
    w_x,
    w_a,
    bias,
    y,
    m,
    n,
    k_x,
    k_a,
    stride_x,
    stride_a,
    UNIT: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K_X: tl.constexpr,
    EVEN_K_A: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    n, k_x, k_a = multiple(n, UNIT), multiple(k_x, UNIT), multiple(k_a, UNIT)
    stride_x, stride_a = multiple(stride_x, UNIT), multiple(stride_a, UNIT)
    tile_m, tile_n = tile_position(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    row, col = tile_m * BLOCK_M, tile_n * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    x_rows = rows_of_tile(x, row, m, stride_x, BLOCK_M)
    acc = accumulate(acc, x_rows, rows_of_tile(w_x, col, n, k_x, BLOCK_N), k_x, BLOCK_K, EVEN_K_X)
    a_rows = rows_of_tile(a, row, m, stride_a, BLOCK_M)
    acc = accumulate(acc, a_rows, rows_of_tile(w_a, col, n, k_a, BLOCK_N), k_a, BLOCK_K, EVEN_K_A)
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)
    store_tile(acc, bias, None, y, rows, cols, m, n, n, n, ACT)


def dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str, tile: Tile) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)``, accumulated in float32 without a rounding between the two.

    Arguments are those of `check_dual_linear`, and one of ``tiles("dual_linear", ...)``; others are a ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_dual_linear(x, a, w_x, w_a, bias, act)
    m, k_x, k_a, n = x.shape[0], x.shape[-1], a.shape[-1], w_x.shape[0]
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
        sizes = (m, n, k_x, k_a, x.stride(0), a.stride(0))
        even = {"EVEN_K_X": k_x % tile.block_k == 0, "EVEN_K_A": k_a % tile.block_k == 0}
        constants = {"UNIT": common_unit(*sizes[1:]), "ACT": act} | even | tile.arguments
        launch(dual_linear_kernel, grid, x, a, w_x, w_a, bias, y, *sizes, **constants)
    return y
