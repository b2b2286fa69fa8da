"""A linear layer with bias, residual and activation in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check, check_linear
from .launch import ACTIVATIONS, check_kernel, launch, tiles
from .manifest import HipKernel


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, kernel: HipKernel
) -> Tensor:
    """``act(x @ weight.T + bias + residual)``, accumulated in float32.

    Arguments are those of `check_linear`, and one of ``load(arch).kernels("linear", ...)``; others are a ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_linear(x, weight, bias, residual, act)
    m, k, n = x.shape[0], x.shape[-1], weight.shape[0]
    check(k > 0, "x has no columns")
    stride_residual = n if residual is None else residual.stride(0)
    check_kernel(kernel, "linear", x, (bias,), (x, weight, residual), (k, n, x.stride(0), stride_residual))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k, x.stride(0), stride_residual)
        launch(kernel, tiles(kernel, m, n), (x, weight, bias, residual, y, *sizes, ACTIVATIONS.index(act)))
    return y
