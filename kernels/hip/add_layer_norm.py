"""A residual added to rows, and the layer norm of the sums, in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_add_layer_norm
from .launch import check_kernel, launch, tiles
from .manifest import HipKernel


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kernel: HipKernel
) -> Tensor:
    """``x + residual`` and the `layer_norm` of it, side by side.

    Arguments are those of `check_add_layer_norm`, the weight in float32, and one of
    ``load(arch).kernels("add_layer_norm", ...)``; others are a ValueError.

    Returns:
        ``[M, 2 * C]`` contiguous.
    """
    check_add_layer_norm(x, residual, weight, bias, eps)
    m, n = x.shape
    strides = (x.stride(0), residual.stride(0))
    check_kernel(kernel, "add_layer_norm", x, (weight, bias), (x, residual), (n, *strides))
    y = torch.empty((m, 2 * n), dtype=x.dtype, device=x.device)
    if m:
        launch(kernel, tiles(kernel, m, 1), (x, residual, weight, bias, y, m, n, *strides, eps))
    return y
