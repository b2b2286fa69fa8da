"""The fused operators as functions: arguments checked, then ``torch.ops.updp_rt``; plain torch while exporting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from updp_rt.ops import reference
from updp_rt.ops.library import conv_shape
from updp_rt.ops.reference import ACTIVATIONS, Pair


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ weight.T + bias + residual)`` in one pass.

    Args:
        x: ``[..., K]``; float32, float16 or bfloat16, as all the others; sums are in float32.
        weight: ``[N, K]``.
        bias: ``[N]``.
        residual: ``[..., N]``.
        act: none, relu, relu6, gelu (erf) or silu.

    Returns:
        ``[..., N]``, contiguous. There is no gradient: `InferenceOnlyError` in backward.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    _check(act, x=x, weight=weight, bias=bias, residual=residual)
    _expect_rows("x", x)
    _expect("weight", weight, (None, x.shape[-1]))
    _expect("bias", bias, (weight.shape[0],))
    _expect("residual", residual, (*x.shape[:-1], weight.shape[0]))
    if torch.compiler.is_exporting():
        return reference.linear(x, weight, bias, residual, act)
    return torch.ops.updp_rt.linear(x, weight, bias, residual, act)


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
    """``act(conv2d(x, weight, stride, padding, groups) + bias + residual)`` in one pass.

    Args:
        x: ``[N, I, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        weight: ``[O, I / groups, kh, kw]``.
        bias: ``[O]``.
        residual: ``[N, O, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: vertical and horizontal, in pixels; padding is with zeros, alike on both sides.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    _check(act, x=x, weight=weight, bias=bias, residual=residual)
    _expect("weight", weight, (None, None, None, None))
    _expect("x", x, (None, weight.shape[1] * groups, None, None))
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"weight has {weight.shape[0]} output channels, which do not split into {groups} groups")
    _expect_fit(x, "weight", weight, stride, padding)
    _expect("bias", bias, (weight.shape[0],))
    _expect("residual", residual, conv_shape(x.shape, weight.shape, stride, padding))
    if torch.compiler.is_exporting():
        return reference.conv2d(x, weight, bias, residual, act, stride, padding, groups)
    return torch.ops.updp_rt.conv2d(x, weight, bias, residual, act, stride, padding, groups)


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
    """A depthwise convolution, then a 1x1 one: ``act(pw(dw(x) + b_dw) + b_pw + residual)`` in one pass.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        w_dw, b_dw: ``[C, 1, kh, kw]``, ``[C]``.
        w_pw, b_pw: ``[O, C, 1, 1]``, ``[O]``.
        residual: ``[N, O, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: of the depthwise convolution, as for `conv2d`.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    _check(act, x=x, w_dw=w_dw, b_dw=b_dw, w_pw=w_pw, b_pw=b_pw, residual=residual)
    _expect("x", x, (None, None, None, None))
    channels = x.shape[1]
    _expect("w_dw", w_dw, (channels, 1, None, None))
    _expect_fit(x, "w_dw", w_dw, stride, padding)
    _expect("b_dw", b_dw, (channels,))
    _expect("w_pw", w_pw, (None, channels, 1, 1))
    _expect("b_pw", b_pw, (w_pw.shape[0],))
    _expect("residual", residual, conv_shape(x.shape, (w_pw.shape[0], *w_dw.shape[1:]), stride, padding))
    if torch.compiler.is_exporting():
        return reference.depthwise_pointwise(x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)
    return torch.ops.updp_rt.depthwise_pointwise(x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)


def dual_linear(
    x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)`` in one pass: two linear layers into one sum.

    Args:
        x, a: ``[..., K]`` and ``[..., J]``; dtypes as for `linear`.
        w_x, w_a: ``[N, K]`` and ``[N, J]``.
        bias: ``[N]``.
        act: none, relu, relu6, gelu (erf) or silu.

    Returns:
        ``[..., N]``, contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    _check(act, x=x, a=a, w_x=w_x, w_a=w_a, bias=bias)
    _expect_rows("x", x)
    _expect_rows("a", a)
    _expect("a", a, (*x.shape[:-1], None))
    _expect("w_x", w_x, (None, x.shape[-1]))
    _expect("w_a", w_a, (w_x.shape[0], a.shape[-1]))
    _expect("bias", bias, (w_x.shape[0],))
    if torch.compiler.is_exporting():
        return reference.dual_linear(x, a, w_x, w_a, bias, act)
    return torch.ops.updp_rt.dual_linear(x, a, w_x, w_a, bias, act)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` of every head, from the joint projection of queries, keys and values.

    Args:
        qkv: ``[N, T, 3 * heads * D]``; dtypes as for `linear`.

    Returns:
        ``[N, T, heads * D]``, contiguous.

    Raises:
        ValueError: another shape, or a last dimension that does not split into 3 x heads.
    """
    _check("none", qkv=qkv)
    _expect("qkv", qkv, (None, None, None))
    if heads < 1 or qkv.shape[-1] % (3 * heads):
        raise ValueError(f"the last dimension of qkv, {qkv.shape[-1]}, does not split into 3 x {heads} heads")
    if torch.compiler.is_exporting():
        return reference.attention(qkv, heads)
    return torch.ops.updp_rt.attention(qkv, heads)


def _check(act: str, **tensors: Tensor | None) -> None:
    """One dtype and one device for all, and an activation that exists."""
    if act not in ACTIVATIONS:
        raise ValueError(f"unknown activation {act!r}: choose among {', '.join(ACTIVATIONS)}")
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for what in ("dtype", "device"):
        found = {name: getattr(tensor, what) for name, tensor in given.items()}
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{name} {value}" for name, value in found.items())
            raise ValueError(f"all tensors need one {what}, but got {shown}; convert them with .to()")
    name, first = next(iter(given.items()))
    if not first.is_floating_point():
        raise ValueError(f"{name} must be of a floating dtype, not {first.dtype}")


def _expect_rows(name: str, tensor: Tensor) -> None:
    if tensor.dim() == 0:
        raise ValueError(f"{name} is a single value, but [..., features] is expected")


def _expect_fit(x: Tensor, name: str, weight: Tensor, stride: Pair, padding: Pair) -> None:
    """The kernel fits the padded image at least once."""
    if min(stride) < 1:
        raise ValueError(f"stride must be at least 1, not {tuple(stride)}")
    if min(padding) < 0:
        raise ValueError(f"padding must be at least 0, not {tuple(padding)}")
    if min(conv_shape(x.shape, weight.shape, stride, padding)[2:]) < 1:
        raise ValueError(
            f"the kernel of {name}, {list(weight.shape[2:])}, does not fit an image of {list(x.shape[2:])} "
            f"padded by {tuple(padding)}"
        )


def _expect(name: str, tensor: Tensor | None, shape: Sequence[int | None]) -> None:
    """`tensor`, where there is one, has `shape`; None stands for any size."""
    if tensor is None:
        return
    if tensor.dim() != len(shape) or any(
        want is not None and size != want for size, want in zip(tensor.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, but [{wanted}] is expected")
