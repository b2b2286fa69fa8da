"""BatchNorms of the pruned form: made from what they replace, and fitted to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from updp_rt._copies import copy_model


class BatchNormTokens(nn.BatchNorm1d):
    """BatchNorm over the last dimension of ``[..., C]``, statistics over all the others."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def pruned_batchnorm(old: nn.Module | None, channels: int, like: Tensor, *, tokens: bool = False) -> nn.Module:
    """The BatchNorm that takes the place of `old` in the pruned form.

    A BatchNorm (timm's ``BatchNormAct2d`` too, without its activation) is copied with its statistics; another norm
    lends its affine part; with None it is a fresh one. Device and dtype are those of `like`.
    """
    kind = BatchNormTokens if tokens else nn.BatchNorm2d
    eps, momentum = (old.eps, old.momentum) if isinstance(old, _BatchNorm) else (1e-5, 0.1)
    new = kind(channels, eps=eps, momentum=momentum, device=like.device, dtype=like.dtype)
    if old is None:
        return new
    ours = new.state_dict()
    new.load_state_dict({**ours, **{k: v for k, v in old.state_dict().items() if k in ours}})
    return new


def copy_activation(activation: nn.Module, *, inplace: bool) -> nn.Module:
    """A copy of `activation` that overwrites its input, if it can, or leaves it alone."""
    activation = copy_model(activation)
    if hasattr(activation, "inplace"):
        activation.inplace = inplace  # type: ignore[assignment]
    return activation


def channels_last_rows(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` or ``[..., C]`` as rows ``[M, C]``."""
    return x.movedim(1, -1).flatten(0, -2) if x.dim() == 4 else x.flatten(0, -2)


def fit_batchnorm(bn: nn.Module, seen: Tensor, wanted: Tensor) -> None:
    """Set `bn` so that in eval mode ``bn(seen)`` is the per-channel least-squares fit of `wanted`.

    Its statistics become those of `seen`; with slope ``cov(seen, wanted) / var(seen)`` its weight is
    ``slope * sqrt(var + eps)`` and its bias the mean of `wanted`. Both are ``[N, C, H, W]`` or ``[..., C]``.
    """
    assert isinstance(bn, _BatchNorm)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    rows, targets = channels_last_rows(seen).double(), channels_last_rows(wanted).double()
    mean, target_mean = rows.mean(0), targets.mean(0)
    var = (rows - mean).square().mean(0)
    covariance = ((rows - mean) * (targets - target_mean)).mean(0)
    # A channel that is constant up to rounding has no slope; its bias alone carries the fit.
    varies = var > 1e-12 * mean.square() + torch.finfo(torch.float32).tiny
    slope = torch.where(varies, covariance / var, 0.0)
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(var)
    with torch.no_grad():
        bn.weight.copy_(slope * (var + bn.eps).sqrt())
        bn.bias.copy_(target_mean)
