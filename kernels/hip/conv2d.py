"""A convolution with bias, residual and activation in one kernel."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_conv2d
from .launch import ACTIVATIONS, check_kernel, check_sides, empty_image, launch, tiles
from .manifest import HipKernel


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernel: HipKernel,
) -> Tensor:
    """``act(conv2d(x, weight, bias, stride, padding) + residual)``, accumulated in float32.

    Arguments are those of `check_conv2d`, and one of ``load(arch).kernels("conv2d", ...)``; others are a ValueError.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.
    """
    shape = check_conv2d(x, weight, bias, residual, act, stride, padding)
    check_sides(x)
    (_, channels, height, width), (kernel_h, kernel_w) = x.shape, weight.shape[1:3]
    batch, out_channels, *out = shape
    check_kernel(kernel, "conv2d", x, (bias,), (x, weight, residual), (channels, out_channels))
    y = empty_image(x, shape)
    if batch:
        sizes = (batch, height, width, channels, *out, out_channels, kernel_h, kernel_w, *stride, *padding)
        grid = tiles(kernel, batch * out[0] * out[1], out_channels)
        launch(kernel, grid, (x, weight, bias, residual, y, *sizes, ACTIVATIONS.index(act)))
    return y
