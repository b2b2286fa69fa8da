"""What kernels of `conv2d` are given."""

from __future__ import annotations

from torch import Tensor

from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_convolution, check_dtypes, check_image, check_packed


def check_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Shape:
    """The shape of `conv2d`'s result; ValueError unless these are its arguments.

    Args:
        x: an image ``[N, I, H, W]``.
        weight: ``[O, KH, KW, I]`` (`pack_conv_weight`). Groups and dilation are 1.
        bias: ``[O]``, or None.
        residual: an image ``[N, O, OH, OW]``, or None.
        stride, padding: ``(vertical, horizontal)``; padding is with zeros, alike on opposite sides.
    """
    check_dtypes(act, x, weight=weight, residual=residual)
    check_image("x", x)
    check(weight.dim() == 4, f"weight must be packed [O, KH, KW, I], not {list(weight.shape)}")
    out_channels, kernel_h, kernel_w = weight.shape[:3]
    check_packed("weight", weight, (out_channels, kernel_h, kernel_w, x.shape[1]))
    check_packed("bias", bias, (out_channels,))
    return check_convolution(x, weight.permute(0, 3, 1, 2), residual, stride, padding)
