"""A residual added to rows, and the layer norm of the sums, in one kernel."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_add_layer_norm
from .gemm import multiple
from .launch import launch
from .norm import constants_of, norm_rows
from .tiles import Tile


@triton.jit
def add_layer_norm_kernel(
    x,
    residual,
    weight,
    bias,
    y,
    m,
    n,
    stride_x,
    stride_residual,
    eps,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    n = multiple(n, UNIT)
    stride_x, stride_residual = multiple(stride_x, UNIT), multiple(stride_residual, UNIT)
    norm_rows(x, residual, weight, bias, y, y + n, m, n, stride_x, stride_residual, 2 * n, eps, BLOCK_M, BLOCK_N, WHOLE)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, tile: Tile
) -> Tensor:
    """``x + residual`` and the `layer_norm` of it, side by side.

    Arguments are those of `check_add_layer_norm`, and one of ``tiles("add_layer_norm", ...)``; others are a
    ValueError.

    Returns:
        ``[M, 2 * C]`` contiguous.
    """
    check_add_layer_norm(x, residual, weight, bias, eps)
    m, n = x.shape
    y = torch.empty((m, 2 * n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, x.stride(0), residual.stride(0))
        constants = constants_of(tile, *sizes[1:])
        grid = triton.cdiv(m, tile.block_m)
        launch(add_layer_norm_kernel, grid, x, residual, weight, bias, y, *sizes, eps, **constants)
    return y
