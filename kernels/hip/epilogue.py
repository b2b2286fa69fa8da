"""Bias, residual and activation in one pass over a result, in place."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_epilogue
from .launch import ACTIVATIONS, check_kernel, launch, tiles
from .manifest import HipKernel


def epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, kernel: HipKernel) -> Tensor:
    """``act(y + bias + residual)`` in float32, written over `y`.

    Arguments are those of `check_epilogue`, and one of ``load(arch).kernels("epilogue", ...)``; others are a
    ValueError.

    Returns:
        `y` itself.
    """
    rows, other = check_epilogue(y, bias, residual, act)
    m, n = rows.shape
    stride_residual = n if other is None else other.stride(0)
    check_kernel(kernel, "epilogue", y, (bias,), (rows, other), (n, rows.stride(0), stride_residual))
    if m:
        sizes = (m, n, rows.stride(0), stride_residual)
        launch(kernel, tiles(kernel, m, n), (rows, bias, other, *sizes, ACTIVATIONS.index(act)))
    return y
