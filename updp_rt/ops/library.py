"""The fused operators as torch operators ``updp_rt::...``: schemas, shapes for tracing, and no gradient.

Their implementation for any device is the plain meaning of `reference`. The runtime adds the fast one for devices it
has kernels for (`torch.library.impl`), so these operators are right even where nothing fast is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops import reference
from updp_rt.ops.reference import Pair

SCHEMAS = {
    "linear": "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str act) -> Tensor",
    "conv2d": "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str act, "
    "SymInt[2] stride, SymInt[2] padding, SymInt groups) -> Tensor",
    "depthwise_pointwise": "(Tensor x, Tensor w_dw, Tensor? b_dw, Tensor w_pw, Tensor? b_pw, Tensor? residual, "
    "str act, SymInt[2] stride, SymInt[2] padding) -> Tensor",
    "dual_linear": "(Tensor x, Tensor a, Tensor w_x, Tensor w_a, Tensor? bias, str act) -> Tensor",
    "attention": "(Tensor qkv, SymInt heads) -> Tensor",
}

NO_GRADIENT = (
    "fused operators are for inference and have no gradient. Run the model under torch.inference_mode(); to train or "
    "fine-tune, use the source model (updp_rt.restore gives it back)"
)


class InferenceOnlyError(RuntimeError):
    """A gradient was asked of a fused operator."""

    def __init__(self) -> None:
        super().__init__(NO_GRADIENT)


def conv_shape(x: Sequence[int], weight: Sequence[int], stride: Pair, padding: Pair) -> tuple[int, int, int, int]:
    """``[N, O, H', W']`` of a convolution with kernel ``[O, I, kh, kw]`` of ``[N, I, H, W]``."""
    height, width = ((x[2 + i] + 2 * padding[i] - weight[2 + i]) // stride[i] + 1 for i in (0, 1))
    return x[0], weight[0], height, width


def memory_format(operator: str) -> torch.memory_format:
    """The layout of an operator's result: channels_last for images, row-major otherwise."""
    return torch.channels_last if operator in ("conv2d", "depthwise_pointwise") else torch.contiguous_format


def plain_operator(operator: str) -> Callable[..., Tensor]:
    """The reference of `operator`, its result in the operator's layout."""
    plain, layout = getattr(reference, operator), memory_format(operator)

    def run(*args: Any) -> Tensor:
        y: Tensor = plain(*args).contiguous(memory_format=layout)
        return y

    return run


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fake_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
    groups: int,
) -> Tensor:
    shape = conv_shape(x.shape, weight.shape, stride, padding)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_depthwise_pointwise(
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
    y = _fake_conv2d(x, w_dw, None, None, act, stride, padding, x.shape[1])
    return _fake_conv2d(y, w_pw, None, None, act, (1, 1), (0, 0), 1)


def _fake_dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], w_x.shape[0]))


def _fake_attention(qkv: Tensor, heads: int) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


_FAKES = {
    "attention": _fake_attention,
    "linear": _fake_linear,
    "conv2d": _fake_conv2d,
    "depthwise_pointwise": _fake_depthwise_pointwise,
    "dual_linear": _fake_dual_linear,
}


def _no_backward(ctx: Any, *grads: Tensor) -> None:
    raise InferenceOnlyError


def define_operator(name: str, schema: str, implementation: Any, fake: Any) -> None:
    """Define ``updp_rt::name`` for every device, with shapes for tracing and an error in place of a gradient."""
    qualified = f"updp_rt::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", implementation)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, _no_backward)


for _name, _schema in SCHEMAS.items():
    define_operator(_name, _schema, plain_operator(_name), _FAKES[_name])
