"""What each operator means, in plain torch and in the dtype of its operands."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
}
Pair = tuple[int, int]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    return epilogue(F.linear(x, weight), bias, residual, act)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Tensor:
    return epilogue(F.conv2d(x, weight.permute(0, 3, 1, 2), None, stride, padding), bias, residual, act)


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Tensor:
    weight = w_dw.permute(2, 0, 1).unsqueeze(1)
    mixed = epilogue(F.conv2d(x, weight, None, stride, padding, groups=x.shape[1]), b_dw, None, "none")
    return epilogue(F.conv2d(mixed, w_pw[:, :, None, None]), b_pw, residual, act)


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Tensor:
    weight = weight.permute(2, 0, 1).unsqueeze(1)
    return epilogue(F.conv2d(x, weight, None, stride, padding, groups=x.shape[1]), bias, residual, act)


def max_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding)


def conv2d_max_pool(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return F.max_pool2d(epilogue(F.conv2d(x, weight, None, 2, 3), bias, None, act), 3, 2, 1)


def average_pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return epilogue(F.linear(x, w_x) + F.linear(a, w_a), bias, None, act)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    weight, bias = (None if w is None else w.to(x.dtype) for w in (weight, bias))
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return torch.cat([x + residual, layer_norm(x + residual, weight, bias, eps)], -1)


def norm_linear(x: Tensor, weight: Tensor, sums: Tensor, bias: Tensor | None, eps: float, act: str) -> Tensor:
    return epilogue(F.linear(layer_norm(x, None, None, eps), weight), bias, None, act)


def prepend_tokens(x: Tensor, table: Tensor) -> Tensor:
    count = len(table) - x.shape[1]
    return torch.cat([table[:count].expand(len(x), -1, -1), x + table[count:]], 1)


def mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    residual: Tensor | None,
    act: str,
    eps: float,
) -> Tensor:
    if eps:
        x = layer_norm(x, None, None, eps)
    return linear(linear(x, w1, b1, None, act), w2, b2, residual, "none")


def inverted_residual(
    x: Tensor,
    w_pw: Tensor,
    b_pw: Tensor | None,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pwl: Tensor,
    b_pwl: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Tensor:
    y = epilogue(F.conv2d(x, w_pw[:, :, None, None]), b_pw, None, act)
    weight = w_dw.permute(2, 0, 1).unsqueeze(1)
    y = epilogue(F.conv2d(y, weight, None, stride, padding, groups=y.shape[1]), b_dw, None, act)
    return epilogue(F.conv2d(y, w_pwl[:, :, None, None]), b_pwl, residual, "none")


def epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))
    return ACTIVATIONS[act](y if residual is None else y + residual)


def attention(qkv: Tensor, heads: int) -> Tensor:
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


OPERATORS = {
    f.__name__: f
    for f in (
        linear,
        conv2d,
        conv2d_max_pool,
        depthwise_pointwise,
        dual_linear,
        mlp,
        inverted_residual,
        epilogue,
        layer_norm,
        add_layer_norm,
        norm_linear,
        prepend_tokens,
        attention,
        depthwise_conv2d,
        max_pool,
        average_pool,
    )
}


def exact(operator: str, operands: tuple[object, ...]) -> Tensor:
    """The operator in float64."""
    return OPERATORS[operator](*(o.double() if isinstance(o, Tensor) else o for o in operands))


def allowance(operator: str, operands: tuple[object, ...], depth: int) -> float:
    """The error an implementation may make: twice what torch's own separate operators make on the same operands.

    Plus what rounding of the inputs' size costs over `depth` additions, since those may happen to be exact.
    """
    wanted = exact(operator, operands)
    own = (OPERATORS[operator](*operands).double() - wanted).nan_to_num().abs().max()
    dtype = next(o.dtype for o in operands if isinstance(o, Tensor))
    return float(2 * own + torch.finfo(dtype).eps * depth**0.5 * wanted.nan_to_num().abs().max())
