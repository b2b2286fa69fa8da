"""A convolution in which each channel has a kernel of its own."""

from __future__ import annotations

from torch import Tensor

from ..checks import check, check_depthwise_conv2d
from .device import device_of
from .launch import ACTIVATIONS, check_kernel, check_sides, empty_image, launch
from .manifest import HipKernel


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernel: HipKernel,
) -> Tensor:
    """``act(depthwise(x, weight, bias, stride, padding) + residual)``, accumulated in float32.

    Arguments are those of `check_depthwise_conv2d`, and one of ``load(arch).kernels("depthwise_conv2d", ...)``; others
    are a ValueError.

    Returns:
        ``[N, C, OH, OW]`` in channels-last memory.
    """
    shape = check_depthwise_conv2d(x, weight, bias, residual, act, stride, padding)
    check_sides(x)
    batch, channels, *out = shape
    check_kernel(kernel, "depthwise_conv2d", x, (bias,), (x, weight, residual), (channels,))
    y = empty_image(x, shape)
    if batch:
        sizes = (batch, *x.shape[2:], channels, *out, *weight.shape[:2], *stride, *padding)
        lanes = kernel.waves * device_of(x.device).wave_lanes
        launch(
            kernel,
            -(-_patch_lanes(kernel, shape) // lanes),
            (x, weight, bias, residual, y, *sizes, ACTIVATIONS.index(act)),
        )
    return y


def _patch_lanes(kernel: HipKernel, shape: tuple[int, ...]) -> int:
    """Lanes that have a patch of the result each; four side by side have the same channels of four patches."""
    batch, channels, height, width = shape
    rows, strip, values = kernel.block
    patches = batch * -(-height // rows) * -(-width // strip)
    lanes = 4 * -(-patches // 4) * -(-channels // values)
    check(lanes < 2**31, f"a result of {list(shape)} has more values than kernels count: split the batch")
    return lanes
