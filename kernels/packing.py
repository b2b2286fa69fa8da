"""Weights as the kernels take them, made once a weight."""

from __future__ import annotations

from torch import Tensor


def pack_conv_weight(weight: Tensor) -> Tensor:
    """A convolution's weight ``[O, I, KH, KW]`` as `conv2d` takes it: ``[O, KH, KW, I]`` contiguous."""
    return weight.permute(0, 2, 3, 1).contiguous()


def pack_depthwise_weight(weight: Tensor) -> Tensor:
    """A depthwise weight ``[C, 1, KH, KW]`` as depthwise kernels take it: ``[KH, KW, C]`` contiguous."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous()


def sum_weight(weight: Tensor) -> Tensor:
    """Sums of the rows of a linear layer's weight ``[N, K]`` in float32, as `norm_linear` takes them."""
    return weight.double().sum(1).float()
