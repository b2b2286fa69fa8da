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

    Args:
        y: ``[M, C]`` with contiguous rows, or ``[N, C, H, W]`` in channels-last memory; float32, float16 or bfloat16.
        bias: ``[C]``, any float dtype, or None.
        residual: as y in shape, layout and dtype (rows may lie another distance apart), or None.
        act: none, relu, relu6, gelu (exact) or silu.
        tile: one of ``tiles("epilogue", ...)``.

    Returns:
        `y` itself.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit.
    """
    rows, other = check_epilogue(y, bias, residual, act)
    m, n = rows.shape
    if m == 0:
        return y
    stride_residual = n if other is None else other.stride(0)
    grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
    launch(
        epilogue_kernel,
        grid,
        rows,
        bias,
        other,
        m,
        n,
        rows.stride(0),
        stride_residual,
        UNIT=common_unit(n, rows.stride(0), stride_residual),
        ACT=act,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        GROUP_M=tile.group_m,
        num_warps=tile.num_warps,
    )
    return y
