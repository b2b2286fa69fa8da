"""Per-channel affine maps (BatchNorm, LayerScale) folded into a convolution or a linear layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from updp_rt.reparam.affine import AffineConv
from updp_rt.reparam.errors import MergeError


def batchnorm_affine(bn: _BatchNorm, name: str = "batchnorm") -> tuple[Tensor, Tensor]:
    """Scale and shift, each ``[C]`` float64, of a BatchNorm in eval mode.

    ``scale = weight / sqrt(var + eps)``, ``shift = bias - mean * scale`` (Ioffe & Szegedy 2015), with eps read
    from the module and a missing affine part read as weight 1 and bias 0. A BatchNorm without running
    statistics depends on its batch, so it is not an affine map: `MergeError`.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise MergeError(name, "a BatchNorm without running statistics depends on its batch")
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    shift = -bn.running_mean.double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.detach().double()
    return scale, shift


def scale_output(conv: AffineConv, scale: Tensor, shift: Tensor | None = None) -> AffineConv:
    """``scale * conv(x) + shift`` per output channel: what follows the convolution."""
    scale = scale.detach().double()
    _check_channels(conv, "output", conv.out_channels, scale)
    bias = conv.bias * scale
    if shift is not None:
        bias = bias + shift.detach().double()
    return replace(conv, weight=conv.weight * scale[:, None, None, None], bias=bias)


def scale_input(conv: AffineConv, scale: Tensor, shift: Tensor | None = None) -> AffineConv:
    """``conv(scale * x + shift)`` per input channel: what comes before the convolution.

    A shift before a padded convolution does not merge: padding with zeros happens after the shift, so the border
    would see 0 where the merged kernel sees ``shift``. That is a `MergeError`.
    """
    scale = scale.detach().double()
    _check_channels(conv, "input", conv.in_channels, scale)
    per_group = scale.view(conv.groups, -1)
    rows = per_group.repeat_interleave(conv.out_channels // conv.groups, dim=0)
    bias = conv.bias
    if shift is not None:
        if conv.padding != (0, 0):
            raise MergeError(conv.name, f"a shift comes before its padding {conv.padding}, so the border would differ")
        shifts = shift.detach().double().view(conv.groups, -1)
        shifts = shifts.repeat_interleave(conv.out_channels // conv.groups, dim=0)
        bias = bias + (conv.weight * shifts[:, :, None, None]).sum(dim=(1, 2, 3))
    return replace(conv, weight=conv.weight * rows[:, :, None, None], bias=bias)


def fold_batchnorm(conv: AffineConv, bn: _BatchNorm, name: str = "batchnorm") -> AffineConv:
    """``bn(conv(x))`` in eval mode as one convolution."""
    return scale_output(conv, *batchnorm_affine(bn, name))


def fold_batchnorm_before(bn: _BatchNorm, conv: AffineConv, name: str = "batchnorm") -> AffineConv:
    """``conv(bn(x))`` in eval mode as one convolution; `MergeError` where `conv` is padded."""
    return scale_input(conv, *batchnorm_affine(bn, name))


def diagonal(scale: Tensor, shift: Tensor | None = None, name: str = "scale") -> AffineConv:
    """A per-channel affine map as a depthwise 1x1 convolution."""
    weight = scale.detach().double()[:, None, None, None]
    bias = torch.zeros_like(scale, dtype=torch.float64) if shift is None else shift.detach().double()
    return AffineConv(weight, bias, groups=scale.numel(), name=name)


def is_batchnorm(module: nn.Module) -> bool:
    """A BatchNorm that does nothing else (timm's ``BatchNormAct2d`` carries an activation)."""
    if not isinstance(module, _BatchNorm):
        return False
    act = getattr(module, "act", None)
    return act is None or isinstance(act, nn.Identity)


def _check_channels(conv: AffineConv, side: str, channels: int, scale: Tensor) -> None:
    if scale.numel() != channels:
        raise MergeError(conv.name, f"{scale.numel()} scales for {channels} {side} channels")
