"""Layer norm of rows in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_layer_norm
from .launch import check_kernel, launch, tiles
from .manifest import HipKernel


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kernel: HipKernel) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of each row, in float32.

    Arguments are those of `check_layer_norm`, the weight in float32, and one of ``load(arch).kernels("layer_norm",
    ...)``: any takes rows of any length, and reads them once where they are no longer than its block; others are a
    ValueError.

    Returns:
        ``[M, C]`` contiguous.
    """
    check_layer_norm(x, weight, bias, eps)
    m, n = x.shape
    check_kernel(kernel, "layer_norm", x, (weight, bias), (x,), (n, x.stride(0)))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        launch(kernel, tiles(kernel, m, 1), (x, weight, bias, y, m, n, x.stride(0), eps))
    return y
