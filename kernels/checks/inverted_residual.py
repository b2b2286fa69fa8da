"""What kernels of `inverted_residual` are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_convolution, check_dtypes, check_image, check_packed


class InvertedResidualWeights(NamedTuple):
    """w_pw ``[E, C]``, w_dw ``[KH, KW, E]`` (`pack_depthwise_weight`), w_pwl ``[O, E]``; biases of E, E, O, or None."""

    w_pw: Tensor
    b_pw: Tensor | None
    w_dw: Tensor
    b_dw: Tensor | None
    w_pwl: Tensor
    b_pwl: Tensor | None


def check_inverted_residual_weights(weights: InvertedResidualWeights) -> None:
    """Raise ValueError unless these are weights of `inverted_residual`."""
    w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl = weights
    expanded = w_pw.shape[0]
    check_dtypes("none", w_pw, w_dw=w_dw, w_pwl=w_pwl)
    check(w_dw.dim() == 3, f"w_dw must be packed [KH, KW, E], not {list(w_dw.shape)}")
    check_packed("w_pw", w_pw, (expanded, w_pw.shape[-1]))
    check_packed("w_dw", w_dw, (*w_dw.shape[:2], expanded))
    check_packed("w_pwl", w_pwl, (w_pwl.shape[0], expanded))
    check_packed("b_pw", b_pw, (expanded,))
    check_packed("b_dw", b_dw, (expanded,))
    check_packed("b_pwl", b_pwl, (w_pwl.shape[0],))


def check_inverted_residual(
    x: Tensor,
    like: Tensor,
    sizes: tuple[int, int, int, int],
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Shape:
    """The shape of `inverted_residual`'s result; ValueError unless these are its arguments.

    Args:
        x: an image ``[N, C, H, W]``.
        like: any of the weights, which has their dtype; `sizes` are their C, O, KH and KW.
        residual: an image ``[N, O, OH, OW]``, or None.
        act: after the first two convolutions.
        stride, padding: of the depthwise convolution, ``(vertical, horizontal)``.
    """
    check_dtypes(act, x, weights=like, residual=residual)
    channels, out_channels, *kernel = sizes
    check_image("x", x)
    check(x.shape[1] == channels, f"x has {x.shape[1]} channels, but the weights take {channels}")
    whole = like.new_empty(1).expand(out_channels, channels, *kernel)  # as far as shapes go, one convolution
    return check_convolution(x, whole, residual, stride, padding)
