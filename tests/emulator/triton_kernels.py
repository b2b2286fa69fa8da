"""Triton kernels of many kinds: what users of Triton on an MI100 write, not the project's own."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def linear(
    x, weight, bias, residual, y, m, n, k, stride_x, stride_y,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """``y = act(x @ weight.T + bias) + residual``; x ``[m, k]``, weight ``[n, k]``."""
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    first = program // (GROUP_M * tiles_n) * GROUP_M
    height = min(tiles_m - first, GROUP_M)
    rows = (first + program % (GROUP_M * tiles_n) % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = program % (GROUP_M * tiles_n) // height * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k, BLOCK_K):
        inside = start + depth < k
        a = tl.load(x + rows[:, None] * stride_x + start + depth, (rows < m)[:, None] & inside, other=0.0)
        b = tl.load(weight + cols * k + (start + depth)[:, None], (cols < n) & inside[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    acc += tl.load(bias + cols, cols < n, other=0.0)
    if ACT == "gelu":
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    if ACT == "relu":
        acc = tl.maximum(acc, 0.0)
    inside = (rows < m)[:, None] & (cols < n)
    if residual is not None:
        acc += tl.load(residual + rows[:, None] * n + cols, inside, other=0.0)
    tl.store(y + rows[:, None] * stride_y + cols, acc, inside)


@triton.jit
def conv2d(
    x, weight, bias, y, pixels, height, width, channels, out_height, out_width, out_channels,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``y = relu(conv(x) + bias)``; x and y NHWC, weight ``[kernel, kernel, channels, out_channels]``."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    column, row, image = rows % out_width, rows // out_width % out_height, rows // out_width // out_height
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tap in range(KERNEL * KERNEL):
        i, j = row * STRIDE - PAD + tap // KERNEL, column * STRIDE - PAD + tap % KERNEL
        inside = (rows < pixels) & (i >= 0) & (i < height) & (j >= 0) & (j < width)
        start = ((image * height + i) * width + j) * channels
        for channel in range(0, channels, BLOCK_K):
            left = channel + depth < channels
            a = tl.load(x + start[:, None] + channel + depth, inside[:, None] & left, other=0.0)
            at = (tap * channels + channel + depth) * out_channels
            b = tl.load(weight + at[:, None] + cols, left[:, None] & (cols < out_channels), other=0.0)
            acc = tl.dot(a, b, acc, input_precision="ieee")
    acc = tl.maximum(acc + tl.load(bias + cols, cols < out_channels, other=0.0), 0.0)
    tl.store(y + rows[:, None] * out_channels + cols, acc, (rows < pixels)[:, None] & (cols < out_channels))


@triton.jit
def depthwise(
    x, weight, bias, y, pixels, height, width, channels, out_height, out_width,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``y = silu(depthwise conv(x) + bias)``; x and y NHWC, weight ``[kernel, kernel, channels]``."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    column, row, image = pixel % out_width, pixel // out_width % out_height, pixel // out_width // out_height
    acc = tl.zeros((BLOCK_P, BLOCK_C), tl.float32) + tl.load(bias + channel, channel < channels, other=0.0)
    for di in range(KERNEL):
        for dj in tl.static_range(KERNEL):
            i, j = row * STRIDE - KERNEL // 2 + di, column * STRIDE - KERNEL // 2 + dj
            inside = (pixel < pixels) & (i >= 0) & (i < height) & (j >= 0) & (j < width)
            at = ((image * height + i) * width + j) * channels
            value = tl.load(x + at[:, None] + channel, inside[:, None] & (channel < channels), other=0.0)
            factor = tl.load(weight + (di * KERNEL + dj) * channels + channel, channel < channels, other=0.0)
            acc += value.to(tl.float32) * factor.to(tl.float32)
    acc = acc * tl.sigmoid(acc)
    tl.store(y + pixel[:, None] * channels + channel, acc, (pixel < pixels)[:, None] & (channel < channels))


@triton.jit
def softmax(x, y, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x += tl.program_id(0) * columns
    value = tl.load(x + at, at < columns, other=-float("inf")).to(tl.float32)
    value = tl.exp(value - tl.max(value, 0))
    tl.store(y + tl.program_id(0) * columns + at, value / tl.sum(value, 0), at < columns)


@triton.jit
def layernorm(x, weight, bias, y, rows, columns, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """ROWS rows a program, so that reductions run along one axis of a tile."""
    row, at = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (at < columns)
    value = tl.load(x + row[:, None] * columns + at, inside, other=0.0).to(tl.float32)
    value = tl.where(inside, value - (tl.sum(value, 1) / columns)[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(value * value, 1) / columns + eps)
    value *= scale[:, None] * tl.load(weight + at, at < columns, other=0.0).to(tl.float32)
    value += tl.load(bias + at, at < columns, other=0.0).to(tl.float32)
    tl.store(y + row[:, None] * columns + at, value, inside)


@triton.jit
def attention(q, k, v, y, length, scale, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One head, ``[length, DIM]`` each; online softmax, so one product feeds another."""
    rows, dim = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, DIM)
    query = tl.load(q + rows[:, None] * DIM + dim, (rows < length)[:, None], other=0.0)
    peak = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, DIM), tl.float32)
    for start in range(0, length, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        key = tl.load(k + cols * DIM + dim[:, None], cols < length, other=0.0)
        value = tl.load(v + cols[:, None] * DIM + dim, (cols < length)[:, None], other=0.0)
        score = tl.where(cols < length, tl.dot(query, key, input_precision="ieee") * scale, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(score, 1))
        share, fade = tl.exp(score - new_peak[:, None]), tl.exp(peak - new_peak)
        total = total * fade + tl.sum(share, 1)
        acc = tl.dot(share.to(value.dtype), value, acc * fade[:, None], input_precision="ieee")
        peak = new_peak
    tl.store(y + rows[:, None] * DIM + dim, acc / total[:, None], (rows < length)[:, None])


@triton.jit
def dot(
    x, weight, y,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, X_COLUMNS: tl.constexpr, W_COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """One tile; X_COLUMNS and W_COLUMNS: the operand lies transposed in memory."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.trans(tl.load(x + k[:, None] * M + m)) if X_COLUMNS else tl.load(x + m[:, None] * K + k)
    b = tl.trans(tl.load(weight + n[:, None] * K + k)) if W_COLUMNS else tl.load(weight + k[:, None] * N + n)
    tl.store(y + m[:, None] * N + n, tl.dot(a, b, out_dtype=SUM, input_precision="ieee"))


@triton.jit
def elementwise(a, b, y, size, FORMULA: tl.constexpr, BLOCK: tl.constexpr):  # noqa: PLR0912 - a list of formulas
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x_ = tl.load(a + i, i < size, other=1.0)
    y_ = tl.load(b + i, i < size, other=1.0)
    f, g = x_.to(tl.float32), y_.to(tl.float32)
    if FORMULA == "exp + log":
        z = tl.exp(f) + tl.log(tl.abs(g) + 1.0)
    elif FORMULA == "sin * cos":
        z = tl.sin(f) * tl.cos(g)
    elif FORMULA == "sqrt / abs":
        z = tl.sqrt(tl.abs(f)) / (1.0 + tl.abs(g))
    elif FORMULA == "tanh + erf":
        z = libdevice.tanh(f) + tl.erf(g)
    elif FORMULA == "pow + rsqrt":
        z = libdevice.pow(tl.abs(f), g) + tl.rsqrt(tl.abs(g) + 1.0)
    elif FORMULA == "hardswish":
        z = tl.minimum(tl.maximum(f + 3.0, 0.0), 6.0) * f * 0.16666667
    elif FORMULA == "floor + ceil":
        z = tl.floor(f * 10) + tl.ceil(g * 10) + (i % 7 - i // 13).to(tl.float32)
    elif FORMULA == "clamp + where":
        z = tl.minimum(tl.maximum(x_, -1.0), 1.0) + tl.where(x_ > y_, x_, y_)
    elif FORMULA == "fma - div":
        z = tl.fma(f, g, f) - tl.div_rn(f, g * g + 1.0)
    elif FORMULA == "cumsum":
        z = tl.cumsum(f, 0)
    elif FORMULA == "sort":
        z = tl.sort(f)
    elif FORMULA == "argmax":
        z = (tl.argmax(f, 0) + tl.zeros((BLOCK,), tl.int32)).to(tl.float32)
    else:
        tl.static_assert(FORMULA == "gather")
        z = tl.gather(f, tl.arange(0, BLOCK) ^ 5, 0)
    tl.store(y + i, z, i < size)


@triton.jit
def histogram(x, sums, last, size, BINS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(sums + i % BINS, tl.load(x + i, i < size, other=0), i < size)
    tl.atomic_max(last + i % BINS, i, i < size)
