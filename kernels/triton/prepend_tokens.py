"""Tokens behind a prefix, with the embedding of each position added, in one pass."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_prepend_tokens
from .gemm import multiple, tile_position
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def prepend_tokens_kernel(
    x,
    table,
    y,
    m,
    n,
    tokens,
    total,
    UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    n = multiple(n, UNIT)
    tile_m, tile_n = tile_position(m, n, BLOCK_M, BLOCK_N, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    token = rows % total
    behind = token - (total - tokens)  # x's token; below 0 there is none
    inside = (rows < m)[:, None] & (cols < n)[None, :]
    x_rows = tl.cast(rows // total, tl.int64) * tokens + behind
    values = tl.load(x + x_rows[:, None] * n + cols[None, :], mask=inside & (behind >= 0)[:, None], other=0.0)
    added = tl.load(table + tl.cast(token, tl.int64)[:, None] * n + cols[None, :], mask=inside, other=0.0)
    place = y + tl.cast(rows, tl.int64)[:, None] * n + cols[None, :]
    tl.store(place, (values.to(tl.float32) + added.to(tl.float32)).to(y.dtype.element_ty), mask=inside)


def prepend_tokens(x: Tensor, table: Tensor, tile: Tile) -> Tensor:
    """``cat([table[:P], x + table[P:]], 1)`` of every image, added in float32.

    Arguments are those of `check_prepend_tokens`, and one of ``tiles("prepend_tokens", ...)``; others are a
    ValueError.

    Returns:
        ``[N, P + T, C]`` contiguous.
    """
    batch, total, n = check_prepend_tokens(x, table)
    y = torch.empty((batch, total, n), dtype=x.dtype, device=x.device)
    m = batch * total
    if m:
        grid = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
        names = ("BLOCK_M", "BLOCK_N", "GROUP_M", "num_warps")
        constants = {"UNIT": common_unit(n)} | {name: tile.arguments[name] for name in names}
        launch(prepend_tokens_kernel, grid, x, table, y, m, n, x.shape[1], total, **constants)
    return y
