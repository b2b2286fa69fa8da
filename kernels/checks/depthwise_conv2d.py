"""What kernels of `depthwise_conv2d` are given."""

from __future__ import annotations

from torch import Tensor

from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_convolution, check_dtypes, check_image, check_packed


def check_depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Shape:
    """The shape of `depthwise_conv2d`'s result; ValueError unless these are its arguments.

    Args:
        x: an image ``[N, C, H, W]``.
        weight: ``[KH, KW, C]`` (`pack_depthwise_weight`). Dilation is 1.
        bias: ``[C]``, or None.
        residual: an image ``[N, C, OH, OW]``, or None.
        stride, padding: ``(vertical, horizontal)``; padding is with zeros, alike on opposite sides.
    """
    check_dtypes(act, x, weight=weight, residual=residual)
    check_image("x", x)
    channels = x.shape[1]
    check(weight.dim() == 3, f"weight must be packed [KH, KW, C], not {list(weight.shape)}")
    check_packed("weight", weight, (*weight.shape[:2], channels))
    check_packed("bias", bias, (channels,))
    kernel = weight.permute(2, 0, 1).unsqueeze(1).expand(channels, 1, -1, -1)
    return check_convolution(x, kernel, residual, stride, padding)
