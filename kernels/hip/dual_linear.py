"""Two linear layers summed, with bias and activation, in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check, check_dual_linear
from .launch import ACTIVATIONS, check_kernel, launch, tiles
from .manifest import HipKernel


def dual_linear(
    x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str, kernel: HipKernel
) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)``, accumulated in float32 without a rounding between the two.

    Arguments are those of `check_dual_linear`, and one of ``load(arch).kernels("dual_linear", ...)``; others are a
    ValueError.

    Returns:
        ``[M, N]`` contiguous.
    """
    check_dual_linear(x, a, w_x, w_a, bias, act)
    m, k_x, k_a, n = x.shape[0], x.shape[-1], a.shape[-1], w_x.shape[0]
    check(k_x > 0 and k_a > 0, "x and a must have columns")
    check_kernel(kernel, "dual_linear", x, (bias,), (x, a, w_x, w_a), (k_x, k_a, n, x.stride(0), a.stride(0)))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k_x, k_a, x.stride(0), a.stride(0))
        launch(kernel, tiles(kernel, m, n), (x, a, w_x, w_a, bias, y, *sizes, ACTIVATIONS.index(act)))
    return y
