"""What each operator means, said another way than `updp_rt.ops` does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.calls import ACTIVATIONS, EPS, POOL, Call, Pair


def _finish(y: Tensor, call: Call) -> Tensor:
    return ACTIVATIONS[call.act](y if call.other is None else y + call.other)


def _linear(call: Call) -> Tensor:
    weight, bias = call.weights
    assert weight is not None
    y = torch.einsum("...k,nk->...n", call.x, weight)
    return _finish(y if bias is None else y + bias, call)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, weight.shape[2], stride[0]).unfold(3, weight.shape[3], stride[1])
    y = torch.einsum("ngchwij,gocij->ngohw", windows.unflatten(1, (groups, -1)), weight.unflatten(0, (groups, -1)))
    return y.flatten(1, 2) if bias is None else y.flatten(1, 2) + bias[:, None, None]


def _conv2d(call: Call) -> Tensor:
    weight, bias = call.weights
    assert weight is not None
    return _finish(_convolve(call.x, weight, bias, call.stride, call.padding, call.groups), call)


def _depthwise_conv2d(call: Call) -> Tensor:
    weight, bias = call.weights
    assert weight is not None
    return _finish(_convolve(call.x, weight, bias, call.stride, call.padding, call.x.shape[1]), call)


def _depthwise_pointwise(call: Call) -> Tensor:
    w_dw, b_dw, w_pw, b_pw = call.weights
    assert w_dw is not None
    assert w_pw is not None
    y = _convolve(call.x, w_dw, b_dw, call.stride, call.padding, call.x.shape[1])
    y = torch.einsum("nchw,oc->nohw", y, w_pw[:, :, 0, 0])
    return _finish(y if b_pw is None else y + b_pw[:, None, None], call)


def _dual_linear(call: Call) -> Tensor:
    w_x, w_a, bias = call.weights
    assert call.other is not None
    assert w_x is not None
    assert w_a is not None
    y = torch.einsum("...k,nk->...n", call.x, w_x) + torch.einsum("...k,nk->...n", call.other, w_a)
    return ACTIVATIONS[call.act](y if bias is None else y + bias)


def _mlp(call: Call) -> Tensor:
    w1, b1, w2, b2 = call.weights
    first = replace(call, x=_norm(call.x), weights=(w1, b1), other=None, act="none")
    between = ACTIVATIONS[call.act](_linear(first))
    return _linear(replace(call, x=between, weights=(w2, b2), act="none"))


def _inverted_residual(call: Call) -> Tensor:
    w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl = call.weights
    assert w_pw is not None
    assert w_dw is not None
    assert w_pwl is not None
    y = ACTIVATIONS[call.act](_convolve(call.x, w_pw, b_pw, (1, 1), (0, 0), 1))
    y = ACTIVATIONS[call.act](_convolve(y, w_dw, b_dw, call.stride, call.padding, y.shape[1]))
    return _finish(_convolve(y, w_pwl, b_pwl, (1, 1), (0, 0), 1), replace(call, act="none"))


def _attention(call: Call) -> Tensor:
    width = call.x.shape[-1] // 3
    dim = width // call.groups
    results = []
    for head in range(call.groups):
        q, k, v = (call.x[..., part + head * dim : part + (head + 1) * dim] for part in (0, width, 2 * width))
        weights = torch.exp(torch.einsum("nid,njd->nij", q, k) / math.sqrt(dim))
        results.append(torch.einsum("nij,njd->nid", weights / weights.sum(-1, keepdim=True), v))
    return torch.cat(results, -1)


def _norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    away = x - x.sum(-1, keepdim=True) / x.shape[-1]
    y = away / ((away * away).sum(-1, keepdim=True) / x.shape[-1] + EPS).sqrt()
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def _add_layer_norm(call: Call) -> Tensor:
    assert call.other is not None
    total = call.x + call.other
    return torch.cat([total, _norm(total, *call.weights)], -1)


def _prepend_tokens(call: Call) -> Tensor:
    prefix, position = call.weights
    assert prefix is not None
    assert position is not None
    return torch.stack([torch.cat([prefix[0], image]) + position[0] for image in call.x])


def _max_pool(call: Call) -> Tensor:
    padding = (call.padding[1], call.padding[1], call.padding[0], call.padding[0])
    padded = F.pad(call.x, padding, value=-math.inf)
    windows = padded.unfold(2, call.kernel[0], call.stride[0]).unfold(3, call.kernel[1], call.stride[1])
    return windows.amax((-2, -1))


def _conv2d_max_pool(call: Call) -> Tensor:
    window, stride, padding = POOL
    return _max_pool(replace(call, x=_conv2d(call), kernel=window, stride=stride, padding=padding))


def _average_pool(call: Call) -> Tensor:
    return call.x.flatten(2).sum(-1) / math.prod(call.x.shape[2:])


EXACT: dict[str, Callable[[Call], Tensor]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "depthwise_pointwise": _depthwise_pointwise,
    "dual_linear": _dual_linear,
    "attention": _attention,
    "layer_norm": lambda call: _norm(call.x, *call.weights),
    "add_layer_norm": _add_layer_norm,
    "prepend_tokens": _prepend_tokens,
    "norm_linear": lambda call: _linear(replace(call, x=_norm(call.x))),
    "mlp": _mlp,
    "inverted_residual": _inverted_residual,
    "conv2d_max_pool": _conv2d_max_pool,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
}
