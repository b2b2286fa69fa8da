"""What each fused operator means, in plain torch: the order is bias, then residual, then activation."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,  # the exact one, with erf
    "silu": F.silu,
}


def finish(y: Tensor, residual: Tensor | None, act: str) -> Tensor:
    """``act(y + residual)``."""
    return ACTIVATIONS[act](y if residual is None else y + residual)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ weight.T + bias + residual)``: x ``[..., K]``, weight ``[N, K]``, residual and result ``[..., N]``."""
    return finish(F.linear(x, weight, bias), residual, act)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
) -> Tensor:
    """``act(conv2d(x, weight) + bias + residual)``: x ``[N, I, H, W]``, weight ``[O, I / groups, kh, kw]``."""
    return finish(F.conv2d(x, weight, bias, stride, padding, 1, groups), residual, act)


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None = None,
    act: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
) -> Tensor:
    """A depthwise convolution ``[C, 1, kh, kw]``, then a 1x1 one ``[O, C, 1, 1]``, residual and activation."""
    y = F.conv2d(x, w_dw, b_dw, stride, padding, 1, x.shape[1])
    return finish(F.conv2d(y, w_pw, b_pw), residual, act)


def dual_linear(
    x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)``: x ``[..., K]``, a ``[..., J]``, w_x ``[N, K]``, w_a ``[N, J]``."""
    return finish(F.linear(x, w_x, bias) + F.linear(a, w_a), None, act)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` of each head: qkv ``[N, T, 3 * heads * D]``, result ``[N, T, heads * D]``."""
    q, k, v = split_heads(qkv, heads)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each ``[N, heads, T, D]``, as views of timm's joint projection."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v
