"""Random operands for every operator, at odd shapes and layouts."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.kernels import plain
from updp_rt.kernels.checks.inverted_residual import InvertedResidualWeights
from updp_rt.kernels.checks.mlp import MlpWeights

Pair = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """Operands of one call, all but the tile. `depth` is how many products one value of the result sums."""

    operator: str
    operands: tuple[object, ...]
    depth: int

    def fresh_operands(self) -> tuple[object, ...]:
        """The operands, with a copy of the one that the epilogue overwrites."""
        if self.operator != "epilogue":
            return self.operands
        y, *others = self.operands
        assert isinstance(y, Tensor)
        copy = torch.empty_strided(y.shape, y.stride(), dtype=y.dtype)
        return copy.copy_(y), *others

    def error(self, found: Tensor) -> str | None:
        """What is wrong with a result, or None."""
        wanted = plain.exact(self.operator, self.operands)
        if found.shape != wanted.shape:
            return f"shape {list(found.shape)}, not {list(wanted.shape)}"
        if found.dim() == 4 and not found.is_contiguous(memory_format=torch.channels_last):
            return f"strides {found.stride()} are not channels_last"
        if found.numel() == 0:
            return None
        if not torch.equal(found.isnan(), wanted.isnan()):
            return f"{found.isnan().sum()} values are NaN, {wanted.isnan().sum()} should be"
        worst = (found.double() - wanted).nan_to_num().abs().max().item()
        allowed = plain.allowance(self.operator, self.operands, self.depth)
        return None if worst <= allowed else f"error {worst:.3g}, {allowed:.3g} allowed"


def called(kernels: ModuleType, operator: str, operands: tuple[Any, ...], tile: Any) -> Tensor:
    """The operator of `kernels`, Triton's or HIP's, with its weights packed where the operator has that done."""
    if operator == "mlp":
        x, *weights, residual, act, eps = operands
        return kernels.mlp(x, kernels.pack_mlp(MlpWeights(*weights), tile), residual, act, eps, tile)
    if operator == "inverted_residual":
        x, *weights, residual, act, stride, padding = operands
        packed = kernels.pack_inverted_residual(InvertedResidualWeights(*weights), tile)
        return kernels.inverted_residual(x, packed, residual, act, stride, padding, tile)
    if operator == "conv2d_max_pool":
        x, weight, *others = operands
        return kernels.conv2d_max_pool(x, kernels.pack_conv2d_max_pool(weight, tile), *others, tile)
    return getattr(kernels, operator)(*operands, tile)


def spoiled(problem: Problem) -> Problem:
    """With NaN in the first row or pixel: it has to reach what depends on it, through any activation, and no more."""
    first = problem.operands[0]
    assert isinstance(first, Tensor)
    if first.dim() == 4:
        first[0, :, 0, 0] = torch.nan
    else:
        first[0] = torch.nan
    return problem


def matrix(rows: int, columns: int, dtype: torch.dtype, gap: int = 0) -> Tensor:
    """Random ``[rows, columns]``, with `gap` values between rows."""
    return torch.randn(rows, columns + gap).to(dtype)[:, :columns]


def image(batch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, channels, height, width).to(dtype, memory_format=torch.channels_last)


def vector(size: int, dtype: torch.dtype, wanted: bool) -> Tensor | None:
    return torch.randn(size).to(dtype) if wanted else None


def linear(
    m: int, n: int, k: int, dtype: torch.dtype, act: str, *, bias: bool = True, residual: bool = True, gap: int = 0
) -> Problem:
    x, weight = matrix(m, k, dtype, gap), matrix(n, k, dtype) / k**0.5
    other = matrix(m, n, dtype, gap) if residual else None
    return Problem("linear", (x, weight, vector(n, dtype, bias), other, act), k)


def dual_linear(
    m: int, n: int, k_x: int, k_a: int, dtype: torch.dtype, act: str, *, bias: bool = True, gap: int = 0
) -> Problem:
    depth = k_x + k_a
    w_x, w_a = (matrix(n, k, dtype) / depth**0.5 for k in (k_x, k_a))
    operands = (matrix(m, k_x, dtype, gap), matrix(m, k_a, dtype), w_x, w_a, vector(n, dtype, bias), act)
    return Problem("dual_linear", operands, depth)


def conv2d(
    size: tuple[int, int, int, int],
    out_channels: int,
    kernel: Pair,
    dtype: torch.dtype,
    act: str,
    *,
    stride: Pair = (1, 1),
    padding: Pair | None = None,
    bias: bool = True,
    residual: bool = True,
) -> Problem:
    batch, channels, height, width = size
    padding = (kernel[0] // 2, kernel[1] // 2) if padding is None else padding
    depth = kernel[0] * kernel[1] * channels
    x = image(*size, dtype)
    weight = (torch.randn(out_channels, *kernel, channels) / depth**0.5).to(dtype)
    out = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True))
    other = image(batch, out_channels, *out, dtype) if residual else None
    return Problem("conv2d", (x, weight, vector(out_channels, dtype, bias), other, act, stride, padding), depth)


def depthwise_pointwise(
    size: tuple[int, int, int, int],
    out_channels: int,
    kernel: int,
    dtype: torch.dtype,
    act: str,
    *,
    stride: int = 1,
    bias: bool = True,
    residual: bool = True,
) -> Problem:
    batch, channels, height, width = size
    pad = kernel // 2
    out = ((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
    operands = (
        image(*size, dtype),
        (torch.randn(kernel, kernel, channels) / kernel).to(dtype),
        vector(channels, dtype, bias),
        matrix(out_channels, channels, dtype) / channels**0.5,
        vector(out_channels, dtype, bias),
        image(batch, out_channels, *out, dtype) if residual else None,
        act,
        (stride, stride),
        (pad, pad),
    )
    return Problem("depthwise_pointwise", operands, channels + kernel**2)


def mlp(
    m: int,
    n: int,
    hidden: int,
    k: int,
    dtype: torch.dtype,
    act: str,
    *,
    bias: bool = True,
    residual: bool = True,
    gap: int = 0,
    eps: float = 0.0,
) -> Problem:
    x, w1, w2 = matrix(m, k, dtype, gap), matrix(hidden, k, dtype) / k**0.5, matrix(n, hidden, dtype) / hidden**0.5
    weights = (w1, vector(hidden, dtype, bias), w2, vector(n, dtype, bias))
    other = matrix(m, n, dtype, gap) if residual else None
    return Problem("mlp", (x, *weights, other, act, eps), k + hidden)


def inverted_residual(
    size: tuple[int, int, int, int],
    expanded: int,
    out_channels: int,
    dtype: torch.dtype,
    act: str,
    *,
    stride: int = 1,
    pad: int = 1,
    bias: bool = True,
    residual: bool = True,
) -> Problem:
    batch, channels, height, width = size
    out = ((n + 2 * pad - 3) // stride + 1 for n in (height, width))
    operands = (
        image(*size, dtype),
        matrix(expanded, channels, dtype) / channels**0.5,
        vector(expanded, dtype, bias),
        (torch.randn(3, 3, expanded) / 3).to(dtype),
        vector(expanded, dtype, bias),
        matrix(out_channels, expanded, dtype) / expanded**0.5,
        vector(out_channels, dtype, bias),
        image(batch, out_channels, *out, dtype) if residual else None,
        act,
        (stride, stride),
        (pad, pad),
    )
    return Problem("inverted_residual", operands, channels + 9 + expanded)


def depthwise_conv2d(
    size: tuple[int, int, int, int],
    kernel: int | Pair,
    dtype: torch.dtype,
    act: str,
    *,
    stride: int | Pair = 1,
    padding: Pair | None = None,
    bias: bool = True,
    residual: bool = True,
) -> Problem:
    kernel, stride = ((n, n) if isinstance(n, int) else n for n in (kernel, stride))
    padding = (kernel[0] // 2, kernel[1] // 2) if padding is None else padding
    out = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size[2:], kernel, stride, padding, strict=True))
    operands = (
        image(*size, dtype),
        (torch.randn(*kernel, size[1]) / (kernel[0] * kernel[1]) ** 0.5).to(dtype),
        vector(size[1], dtype, bias),
        image(*size[:2], *out, dtype) if residual else None,
        act,
        stride,
        padding,
    )
    return Problem("depthwise_conv2d", operands, kernel[0] * kernel[1])


def max_pool(
    size: tuple[int, int, int, int], kernel: Pair, dtype: torch.dtype, *, stride: Pair, padding: Pair = (0, 0)
) -> Problem:
    return Problem("max_pool", (image(*size, dtype), kernel, stride, padding), 1)


def conv2d_max_pool(
    size: tuple[int, int, int], out_channels: int, dtype: torch.dtype, act: str, *, bias: bool = True
) -> Problem:
    """A ResNet's stem on images of 3 channels; batch, height, width."""
    batch, *sides = size
    weight = (torch.randn(out_channels, 3, 7, 7) / 147**0.5).to(dtype)
    return Problem(
        "conv2d_max_pool", (image(batch, 3, *sides, dtype), weight, vector(out_channels, dtype, bias), act), 147
    )


def average_pool(size: tuple[int, int, int, int], dtype: torch.dtype) -> Problem:
    return Problem("average_pool", (image(*size, dtype),), size[2] * size[3])


def epilogue(y: Tensor, act: str, *, bias: bool = True, residual: bool = True) -> Problem:
    other = torch.randn_like(y) if residual else None
    return Problem("epilogue", (y, vector(y.shape[1], y.dtype, bias), other, act), 1)


def rows_to_norm(rows: int, columns: int, dtype: torch.dtype, gap: int = 0) -> Tensor:
    """Each of a mean and a spread of its own: some all alike, some far from zero beside their spread."""
    spread = 10 ** torch.linspace(-2, 1, rows)[torch.randperm(rows)]
    mean = spread * torch.tensor([0.0, 1.0, -5.0, 40.0])[torch.arange(rows) % 4]
    values = matrix(rows, columns, torch.float32, gap) * spread[:, None] + mean[:, None]
    if rows > 4:
        values[1] = 3.0
    storage = torch.randn(rows, columns + gap).to(dtype)
    return storage[:, :columns].copy_(values)


def layer_norm(
    m: int, n: int, dtype: torch.dtype, *, weight: bool = True, bias: bool = True, gap: int = 0, eps: float = 1e-6
) -> Problem:
    operands = (rows_to_norm(m, n, dtype, gap), vector(n, dtype, weight), vector(n, dtype, bias), eps)
    return Problem("layer_norm", operands, n)


def add_layer_norm(
    m: int, n: int, dtype: torch.dtype, *, weight: bool = True, bias: bool = True, gap: int = 0, eps: float = 1e-6
) -> Problem:
    x, residual = rows_to_norm(m, n, dtype, gap), matrix(m, n, dtype)
    return Problem("add_layer_norm", (x, residual, vector(n, dtype, weight), vector(n, dtype, bias), eps), n)


def norm_linear(
    m: int, n: int, k: int, dtype: torch.dtype, act: str, *, bias: bool = True, gap: int = 0, eps: float = 1e-6
) -> Problem:
    weight = matrix(n, k, dtype) / k**0.5
    x, sums = rows_to_norm(m, k, dtype, gap), weight.double().sum(1).float()
    return Problem("norm_linear", (x, weight, sums, vector(n, dtype, bias), eps, act), k)


def prepend_tokens(batch: int, tokens: int, prefix: int, columns: int, dtype: torch.dtype) -> Problem:
    table = matrix(prefix + tokens, columns, dtype)
    return Problem("prepend_tokens", (torch.randn(batch, tokens, columns).to(dtype), table), 1)


def attention(images: int, tokens: int, heads: int, depth: int, dtype: torch.dtype, *, spread: float = 1.0) -> Problem:
    """Of scores whose standard deviation is ``spread**2``."""
    qkv = torch.randn(images, tokens, 3, heads, depth)
    qkv[:, :, :2] *= spread
    return Problem("attention", (qkv.flatten(2).to(dtype), heads), tokens)
