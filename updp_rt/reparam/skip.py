"""A skip connection folded into the convolution it runs beside."""

from __future__ import annotations

from dataclasses import replace

import torch

from updp_rt.reparam.affine import AffineConv
from updp_rt.reparam.errors import MergeError


def add_identity(conv: AffineConv) -> AffineConv:
    """``conv(x) + x`` as one convolution: 1 added at the tap that sees the output's own pixel."""
    if conv.in_channels != conv.out_channels:
        raise MergeError(conv.name, f"an identity skip needs as many outputs as inputs ({conv.in_channels})")
    eye = torch.ones(conv.in_channels, 1, 1, 1, dtype=torch.float64, device=conv.weight.device)
    identity = AffineConv(eye, torch.zeros_like(conv.bias), groups=conv.in_channels, name="identity skip")
    return add_parallel(conv, identity)


def add_parallel(conv: AffineConv, skip: AffineConv) -> AffineConv:
    """``conv(x) + skip(x)`` as one convolution: the smaller kernel placed inside the larger one.

    Both read pixel ``s * o - p + a`` for output o and tap a, so a tap of `skip` is tap ``a + p_conv - p_skip`` of
    `conv`. For a 1x1 downsample that is the centre tap, at any stride.

    Raises:
        MergeError: channels or strides differ, or the kernels don't line up.
    """
    if (conv.in_channels, conv.out_channels) != (skip.in_channels, skip.out_channels):
        raise MergeError(
            skip.name,
            f"it maps {skip.in_channels} to {skip.out_channels} channels, "
            f"but {conv.name} maps {conv.in_channels} to {conv.out_channels}",
        )
    if conv.stride != skip.stride:
        raise MergeError(skip.name, f"its stride {skip.stride} is not {conv.name}'s {conv.stride}")
    window = []
    for k, p, k_skip, p_skip in zip(conv.kernel_size, conv.padding, skip.kernel_size, skip.padding, strict=True):
        offset = p - p_skip
        # Equal output sizes for every input size need 2p - k equal on both sides.
        if offset < 0 or offset + k_skip > k or 2 * p - k != 2 * p_skip - k_skip:
            raise MergeError(
                skip.name,
                f"kernels don't line up: {k_skip} taps padded by {p_skip} inside {k} taps padded by {p}",
            )
        window.append(slice(offset, offset + k_skip))
    if conv.groups != skip.groups:
        conv, skip = _align_groups(conv, skip)
    weight = conv.weight.clone()
    weight[:, :, window[0], window[1]] += skip.weight
    return replace(conv, weight=weight, bias=conv.bias + skip.bias)


def _align_groups(conv: AffineConv, skip: AffineConv) -> tuple[AffineConv, AffineConv]:
    """Bring both to one group count: a diagonal skip keeps a grouped convolution grouped."""
    depthwise_skip = skip.groups == skip.in_channels == skip.out_channels
    if not depthwise_skip or conv.groups == 1 or conv.in_channels != conv.out_channels:
        return conv.dense(), skip.dense()
    width = conv.weight.shape[1]
    weight = skip.weight.new_zeros(skip.out_channels, width, *skip.kernel_size)
    channel = torch.arange(skip.out_channels, device=weight.device)
    weight[channel, channel % width] = skip.weight[:, 0]
    return conv, replace(skip, weight=weight, groups=conv.groups)
