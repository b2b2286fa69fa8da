"""What kernels of `depthwise_pointwise` are given."""

from __future__ import annotations

from torch import Tensor

from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_convolution, check_dtypes, check_image, check_packed


def check_depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Shape:
    """The shape of `depthwise_pointwise`'s result; ValueError unless these are its arguments.

    Args:
        x: an image ``[N, C, H, W]``.
        w_dw, b_dw: ``[KH, KW, C]`` (`pack_depthwise_weight`), and ``[C]`` or None.
        w_pw, b_pw: ``[O, C]``, and ``[O]`` or None.
        residual: an image ``[N, O, OH, OW]``, or None.
        stride, padding: of the depthwise convolution, ``(vertical, horizontal)``.
    """
    check_dtypes(act, x, w_dw=w_dw, w_pw=w_pw, residual=residual)
    check_image("x", x)
    channels, out_channels = x.shape[1], w_pw.shape[0]
    check(w_dw.dim() == 3, f"w_dw must be packed [KH, KW, C], not {list(w_dw.shape)}")
    check_packed("w_dw", w_dw, (*w_dw.shape[:2], channels))
    check_packed("w_pw", w_pw, (out_channels, channels))
    check_packed("b_dw", b_dw, (channels,))
    check_packed("b_pw", b_pw, (out_channels,))
    return check_convolution(
        x, w_dw.permute(2, 0, 1).unsqueeze(1).expand(channels, 1, -1, -1), residual, stride, padding, w_pw
    )
