"""Two linear layers with an activation between in one kernel: what lies between them goes to no memory."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_mlp, check_mlp_weights
from ..checks.mlp import MlpWeights
from .activation import activate
from .gemm import accumulate, multiple, rows_of_tile, store_tile
from .launch import common_unit, launch
from .tiles import Tile


@triton.jit
def statistics(x_rows, k, eps, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Mean, and ``1 / sqrt(var + eps)``, of each row."""
    depth = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, k, BLOCK_K):
        inside = (start + depth < k)[None, :]
        total += tl.sum(tl.load(x_rows[:, None] + (start + depth)[None, :], mask=inside, other=0.0).to(tl.float32), 1)
    mean = total / k
    square = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, k, BLOCK_K):
        inside = (start + depth < k)[None, :]
        x = tl.load(x_rows[:, None] + (start + depth)[None, :], mask=inside, other=0.0).to(tl.float32)
        off = tl.where(inside, x - mean[:, None], 0.0)
        square += tl.sum(off * off, 1)
    return mean, tl.rsqrt(square / k + eps)


@triton.jit
def accumulate_normed(acc, x_rows, w_rows, mean, scale, k, BLOCK_K: tl.constexpr):
    """As `accumulate`, of normed rows of x, which are rounded to its dtype."""
    depth = tl.arange(0, BLOCK_K)
    for start in range(0, k, BLOCK_K):
        inside = start + depth < k
        x = tl.load(x_rows[:, None] + (start + depth)[None, :], mask=inside[None, :], other=0.0)
        w = tl.load(w_rows[None, :] + (start + depth)[:, None], mask=inside[:, None], other=0.0)
        normed = (x.to(tl.float32) - mean[:, None]) * scale[:, None]
        acc = tl.dot(normed.to(x.dtype), w, acc, input_precision="ieee")
    return acc


@triton.jit
def mlp_kernel(
    x,
    w1,
    b1,
    w2,
    b2,
    residual,
    y,
    m,
    n,
    k,
    hidden,
    stride_x,
    stride_residual,
    eps,
    UNIT: tl.constexpr,
    NORM: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    # A program has all columns of its rows where they fit a tile; else each tile of columns makes what lies between
    # the layers anew.
    n, k, hidden = multiple(n, UNIT), multiple(k, UNIT), multiple(hidden, UNIT)
    stride_x, stride_residual = multiple(stride_x, UNIT), multiple(stride_residual, UNIT)
    tiles_n = tl.cdiv(n, BLOCK_N)
    tile_m, tile_n = tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n
    x_rows = rows_of_tile(x, tile_m * BLOCK_M, m, stride_x, BLOCK_M)
    w2_rows = rows_of_tile(w2, tile_n * BLOCK_N, n, hidden, BLOCK_N)
    if NORM:
        mean, scale = statistics(x_rows, k, eps, BLOCK_M, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, hidden, BLOCK_K):
        w1_rows = rows_of_tile(w1, start, hidden, k, BLOCK_K)
        between = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        if NORM:
            between = accumulate_normed(between, x_rows, w1_rows, mean, scale, k, BLOCK_K)
        else:
            between = accumulate(between, x_rows, w1_rows, k, BLOCK_K, EVEN_K)
        depth = start + tl.arange(0, BLOCK_K)
        exists = depth < hidden
        if b1 is not None:
            between += tl.load(b1 + depth, mask=exists, other=0.0).to(tl.float32)[None, :]
        between = activate(between, ACT)
        # Past the end rows of w1 repeat: of them nothing may be left, be it infinite.
        between = tl.where(exists[None, :], between, 0.0).to(x.dtype.element_ty)
        weights = tl.load(w2_rows[None, :] + depth[:, None], mask=exists[:, None], other=0.0)
        acc = tl.dot(between, weights, acc, input_precision="ieee")
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    store_tile(acc, b2, residual, y, rows, cols, m, n, stride_residual, n, "none")


def pack_mlp(weights: MlpWeights, tile: Tile) -> MlpWeights:
    """`weights` as `mlp` takes them for any tile: as they are; ValueError unless they are its weights."""
    check_mlp_weights(weights)
    return weights


def mlp(x: Tensor, weights: MlpWeights, residual: Tensor | None, act: str, eps: float, tile: Tile) -> Tensor:
    """``act(norm(x) @ w1.T + b1) @ w2.T + b2 + residual``, accumulated in float32.

    The values between are rounded to x's dtype, as they would be in memory. Arguments are those of `check_mlp`, weights
    of `pack_mlp`, and one of ``tiles("mlp", ...)``.

    Returns:
        ``[M, N]`` contiguous.

    Raises:
        ValueError: they do not fit.
    """
    w1, b1, w2, b2 = weights
    (m, k), (n, hidden) = x.shape, w2.shape
    check_mlp(x, w1.shape[1], n, w1, residual, act, eps)
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m == 0:
        return y
    stride_residual = n if residual is None else residual.stride(0)
    arguments = {name: value for name, value in tile.arguments.items() if name != "GROUP_M"}
    launch(
        mlp_kernel,
        triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n),
        x,
        w1,
        b1,
        w2,
        b2,
        residual,
        y,
        m,
        n,
        k,
        hidden,
        x.stride(0),
        stride_residual,
        float(eps),
        NORM=eps > 0,
        UNIT=common_unit(n, k, hidden, x.stride(0), stride_residual),
        ACT=act,
        EVEN_K=k % tile.block_k == 0,
        **arguments,
    )
    return y
