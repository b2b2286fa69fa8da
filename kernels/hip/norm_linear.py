"""A layer norm, then a linear layer with bias and activation, in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_norm_linear
from .launch import ACTIVATIONS, check_kernel, launch, tiles
from .manifest import HipKernel


def norm_linear(
    x: Tensor, weight: Tensor, sums: Tensor, bias: Tensor | None, eps: float, act: str, kernel: HipKernel
) -> Tensor:
    """``act(norm(x) @ weight.T + bias)``, accumulated in float32; `x` is read once.

    Arguments are those of `check_norm_linear`, and one of ``load(arch).kernels("norm_linear", ...)``; others are a
    ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_norm_linear(x, weight, sums, bias, eps, act)
    (m, k), n = x.shape, weight.shape[0]
    check_kernel(kernel, "norm_linear", x, (sums, bias), (x, weight), (k, n, x.stride(0)))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k, x.stride(0), eps)
        launch(kernel, tiles(kernel, m, n), (x, weight, sums, bias, y, *sizes, ACTIVATIONS.index(act)))
    return y
