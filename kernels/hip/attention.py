"""Attention of every head in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check, check_attention
from .launch import check_kernel, launch
from .manifest import HipKernel


def attention(qkv: Tensor, heads: int, kernel: HipKernel) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` of every head; scores, softmax and sums in float32.

    Arguments are those of `check_attention`, and one of ``load(arch).kernels("attention", ...)`` for heads of D
    values; others are a ValueError.

    Returns:
        ``[N, T, heads * D]`` contiguous.
    """
    check_kernel(kernel, "attention", qkv, (), (qkv,), ())
    check_attention(qkv, heads, kernel.block[2])
    batch, tokens, width = qkv.shape
    y = torch.empty((batch, tokens, width // 3), dtype=qkv.dtype, device=qkv.device)
    if y.numel():
        groups = -(-tokens // kernel.block[0])
        check(batch * heads * groups < 2**31, f"{batch} images of {heads} heads are more than kernels count")
        launch(kernel, batch * heads * groups, (qkv, y, tokens, heads))
    return y
