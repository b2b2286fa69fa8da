"""Attention of every head in one kernel: no scores in memory."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_attention
from .launch import launch
from .tiles import Tile


@triton.jit
def attention_kernel(
    qkv,
    y,
    tokens,
    heads,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    waves_per_eu: tl.constexpr,
    matrix_instr_nonkdim: tl.constexpr,
    kpack: tl.constexpr,
):
    # BLOCK_M queries of one head, BLOCK_N keys a step, BLOCK_K values a head, for which lanes have room for WIDTH.
    groups = tl.cdiv(tokens, BLOCK_M)
    head = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * BLOCK_M
    image = tl.cast(head // heads, tl.int64)
    part = heads * BLOCK_K
    qkv += image * tokens * (3 * part) + head % heads * BLOCK_K
    y += image * tokens * part + head % heads * BLOCK_K

    depth = tl.arange(0, WIDTH)
    # Past the last query it repeats.
    rows = tl.minimum(first + tl.arange(0, BLOCK_M), tokens - 1)
    queries = _load(qkv + rows[:, None] * (3 * part) + depth[None, :], depth, BLOCK_K, WIDTH)
    sums = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    whole = tokens // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        sums, total, largest = _attend(
            queries, sums, total, largest, qkv + part, part, start, tokens, False, BLOCK_N, BLOCK_K, WIDTH
        )
    if whole < tokens:
        sums, total, largest = _attend(
            queries, sums, total, largest, qkv + part, part, whole, tokens, True, BLOCK_N, BLOCK_K, WIDTH
        )
    inside = (first + tl.arange(0, BLOCK_M) < tokens)[:, None] & (depth < BLOCK_K)[None, :]
    result = (sums / total[:, None]).to(y.dtype.element_ty)
    tl.store(y + rows[:, None] * part + depth[None, :], result, mask=inside)


@triton.jit
def _attend(
    queries,
    sums,
    total,
    largest,
    keys,
    part,
    start,
    tokens,
    LAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr,
):
    # Weights are powers of two: of log2(e) / sqrt(BLOCK_K) times a score.
    scale = 1.4426950408889634 / BLOCK_K**0.5
    depth = tl.arange(0, WIDTH)
    tokens_of_step = start + tl.arange(0, BLOCK_N)
    rows = tl.minimum(tokens_of_step, tokens - 1) if LAST else tokens_of_step
    k = _load(keys + rows[:, None] * (3 * part) + depth[None, :], depth, BLOCK_K, WIDTH)
    v = _load(keys + part + rows[:, None] * (3 * part) + depth[None, :], depth, BLOCK_K, WIDTH)
    scores = tl.dot(queries, tl.trans(k), input_precision="ieee")
    if LAST:
        scores = tl.where((tokens_of_step < tokens)[None, :], scores, float("-inf"))
    found = tl.maximum(largest, tl.max(scores, 1))
    # Where all scores are -infinity, so far, weights are 0. Subtracted before scaling: very large scores have no exact
    # product to subtract.
    base = tl.where(found == float("-inf"), 0.0, found)
    weights = tl.exp2((scores - base[:, None]) * scale)
    shrink = tl.exp2((largest - base) * scale)
    total = total * shrink + tl.sum(weights, 1)
    sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
    return sums, total, found


@triton.jit
def _load(pointers, depth, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr):
    if BLOCK_K == WIDTH:
        return tl.load(pointers)
    return tl.load(pointers, mask=(depth < BLOCK_K)[None, :], other=0.0)


def attention(qkv: Tensor, heads: int, tile: Tile) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` of every head; scores, softmax and sums in float32.

    Arguments are those of `check_attention`, and one of ``tiles("attention", ...)`` for heads of D values.

    Returns:
        ``[N, T, heads * D]`` contiguous.

    Raises:
        ValueError: they do not fit the operator or the tile.
    """
    check_attention(qkv, heads, tile.block_k)
    batch, tokens, width = qkv.shape
    y = torch.empty((batch, tokens, width // 3), dtype=qkv.dtype, device=qkv.device)
    if y.numel():
        grid = batch * heads * triton.cdiv(tokens, tile.block_m)
        constants = {"WIDTH": triton.next_power_of_2(tile.block_k)} | tile.arguments
        launch(attention_kernel, grid, qkv, y, tokens, heads, **constants)
    return y
