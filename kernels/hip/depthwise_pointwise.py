"""A depthwise convolution and the 1x1 convolution after it in one kernel."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_depthwise_pointwise
from .launch import ACTIVATIONS, check_kernel, check_sides, empty_image, launch, tiles
from .manifest import HipKernel


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernel: HipKernel,
) -> Tensor:
    """``act(conv1x1(depthwise(x, w_dw, b_dw, stride, padding), w_pw, b_pw) + residual)``.

    Both are accumulated in float32; the depthwise result is rounded to x's dtype, as it would be in memory.

    Arguments are those of `check_depthwise_pointwise`, and one of ``load(arch).kernels("depthwise_pointwise", ...)``;
    others are a ValueError.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.
    """
    shape = check_depthwise_pointwise(x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)
    check_sides(x)
    (_, channels, height, width), (kernel_h, kernel_w) = x.shape, w_dw.shape[:2]
    batch, out_channels, *out = shape
    check_kernel(kernel, "depthwise_pointwise", x, (b_dw, b_pw), (x, w_dw, w_pw, residual), (channels, out_channels))
    y = empty_image(x, shape)
    if batch:
        sizes = (batch, height, width, channels, *out, out_channels, kernel_h, kernel_w, *stride, *padding)
        tensors = (x, w_dw, b_dw, w_pw, b_pw, residual, y)
        grid = tiles(kernel, batch * out[0] * out[1], out_channels)
        launch(kernel, grid, (*tensors, *sizes, ACTIVATIONS.index(act)))
    return y
