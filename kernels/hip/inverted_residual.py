"""A 1x1, a depthwise and a 1x1 convolution in one kernel: what lies between them goes to no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from updp_rt.ops.checks import Pair

from ..checks import check, check_inverted_residual, check_inverted_residual_weights
from ..checks.inverted_residual import InvertedResidualWeights
from .launch import ACTIVATIONS, check_kernel, check_sides, empty_image, launch
from .manifest import HipKernel
from .panels import least_room, pack_panels

_KERNEL = (3, 3)
_MOST_PADDING = 2  # a window then always has a pixel of the image


@dataclass(frozen=True)
class InvertedResidualPanels:
    """Weights of `inverted_residual` as one of its kernels takes them: `packed` for it, `bias`, the last; C and O."""

    packed: Tensor
    bias: Tensor | None
    channels: int
    out_channels: int


def inverted_residual_kernels(
    kernels: Sequence[HipKernel], channels: int, out_channels: int, kernel: Pair, stride: Pair, padding: Pair
) -> tuple[HipKernel, ...]:
    """Of `kernels` those that take such a block, with the least to fill up."""
    if kernel != _KERNEL or max(padding) > _MOST_PADDING:
        return ()
    return least_room(one for one in kernels if _fits(one, channels, out_channels) and stride == (one.block[2],) * 2)


def pack_inverted_residual(weights: InvertedResidualWeights, kernel: HipKernel) -> InvertedResidualPanels:
    """`weights` for `kernel`, one of ``load(arch).kernels("inverted_residual", ...)``; ValueError for lack of room."""
    check_inverted_residual_weights(weights)
    w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl = weights
    (expanded, channels), out_channels = w_pw.shape, w_pwl.shape[0]
    *_, most_out, most = kernel.block
    check(channels > 0, "x has no channels")
    check(
        _fits(kernel, channels, out_channels) and w_dw.shape[:2] == _KERNEL,
        f"{kernel.name} takes a 3x3 kernel between up to {most} channels and up to {most_out}",
    )
    taps = w_dw.flatten(0, 1).t()
    bias = w_pw.new_zeros(expanded, dtype=taps.float().dtype) if b_dw is None else b_dw.float()
    packed = pack_panels(w_pw, b_pw, w_pwl, most, most_out, taps, bias.view(-1, 1))
    return InvertedResidualPanels(packed, b_pwl, channels, out_channels)


def inverted_residual(
    x: Tensor,
    weights: InvertedResidualPanels,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
    kernel: HipKernel,
) -> Tensor:
    """``pwl(act(dw(act(pw(x) + b_pw), stride, padding) + b_dw)) + b_pwl + residual``, accumulated in float32.

    What lies between the convolutions is rounded to x's dtype, as it would be in memory. Arguments are those of
    `check_inverted_residual`, weights of `pack_inverted_residual`, and the kernel that they were packed for.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory.

    Raises:
        ValueError: they do not fit the operator or the kernel.
    """
    packed, bias, channels, out_channels = weights.packed, weights.bias, weights.channels, weights.out_channels
    shape = check_inverted_residual(x, packed, (channels, out_channels, *_KERNEL), residual, act, stride, padding)
    check_sides(x)
    height, width, step = kernel.block[:3]
    check_kernel(kernel, "inverted_residual", x, (bias,), (x, packed, residual), (channels, out_channels))
    check(
        stride == (step, step) and max(padding) <= _MOST_PADDING,
        f"{kernel.name} takes strides of {step} and paddings up to {_MOST_PADDING}, not {stride} and {padding}",
    )
    y = empty_image(x, shape)
    batch, _, *out = shape
    patches = batch * -(-out[0] // height) * -(-out[1] // width)
    check(patches < 2**31, f"{patches} patches are more than kernels count: split the batch")
    if batch:
        sizes = (batch, *x.shape[2:], channels, *out, out_channels, *padding, packed.shape[0])
        launch(kernel, patches, (x, packed, bias, residual, y, *sizes, ACTIVATIONS.index(act)))
    return y


def _fits(kernel: HipKernel, channels: int, out_channels: int) -> bool:
    *_, most_out, most = kernel.block
    return channels <= most and out_channels <= most_out
