"""Layer norm of rows in one kernel."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import check_layer_norm
from .gemm import multiple
from .launch import launch
from .norm import constants_of, norm_rows
from .tiles import Tile


@triton.jit
def layer_norm_kernel(
    x,
    weight,
    bias,
    y,
    m,
    n,
    stride_x,
    eps,
    UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    n, stride_x = multiple(n, UNIT), multiple(stride_x, UNIT)
    norm_rows(x, None, weight, bias, None, y, m, n, stride_x, 0, n, eps, BLOCK_M, BLOCK_N, WHOLE)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, tile: Tile) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of each row, in float32.

    Arguments are those of `check_layer_norm`, and one of ``tiles("layer_norm", ...)``: any takes rows of any length,
    and reads them once where they are no longer than its ``block_n``; others are a ValueError.

    Returns:
        ``[M, C]`` contiguous.
    """
    check_layer_norm(x, weight, bias, eps)
    m, n = x.shape
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, x.stride(0))
        constants = constants_of(tile, *sizes[1:])
        launch(layer_norm_kernel, triton.cdiv(m, tile.block_m), x, weight, bias, y, *sizes, eps, **constants)
    return y
