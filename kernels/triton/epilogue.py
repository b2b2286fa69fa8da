"""Bias, residual and activation in one pass over a result, in place: what follows a vendor's convolution."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_epilogue
from .gemm import multiple, store_tile, tile_position
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def epilogue_kernel(
    y,
    bias,
    residual,
    m,
    n,
    stride_y,
    stride_residual,
    UNIT: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    n, stride_y, stride_residual = multiple(n, UNIT), multiple(stride_y, UNIT), multiple(stride_residual, UNIT)
    tile_m, tile_n = tile_position(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < m)[:, None] & (cols < n)[None, :]
    values = tl.load(y + tl.cast(rows, tl.int64)[:, None] * stride_y + cols[None, :], mask=inside, other=0.0)
    store_tile(values.to(tl.float32), bias, residual, y, rows, cols, m, n, stride_residual, stride_y, ACT)


def epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, tile: Tile) -> Tensor:
    """``act(y + bias + residual)`` in float32, written over `y`.

    Arguments are those of `check_epilogue`, and one of ``tiles("epilogue", ...)``; others are a ValueError.

    Returns:
        `y` itself.
    """
    rows, other = check_epilogue(y, bias, residual, act)
    m, n = rows.shape
    if m:
        grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
        sizes = (m, n, rows.stride(0), n if other is None else other.stride(0))
        names = ("BLOCK_M", "BLOCK_N", "GROUP_M", "num_warps")
        constants = {"UNIT": common_unit(*sizes[1:]), "ACT": act} | {name: tile.arguments[name] for name in names}
        launch(epilogue_kernel, grid, rows, bias, other, *sizes, **constants)
    return y
