"""Tokens behind a prefix, with the embedding of each position added, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check, check_prepend_tokens
from .launch import check_kernel, launch, tiles
from .manifest import HipKernel


def prepend_tokens(x: Tensor, table: Tensor, kernel: HipKernel) -> Tensor:
    """``cat([table[:P], x + table[P:]], 1)`` of every image, added in float32.

    Arguments are those of `check_prepend_tokens`, and one of ``load(arch).kernels("prepend_tokens", ...)``; others are
    a ValueError.

    Returns:
        ``[N, P + T, C]`` contiguous.
    """
    batch, total, n = check_prepend_tokens(x, table)
    check(table.nbytes < 2**31, f"table takes {table.nbytes} bytes; HIP kernels take less than 2^31")
    check_kernel(kernel, "prepend_tokens", x, (), (x, table), (n,))
    y = torch.empty((batch, total, n), dtype=x.dtype, device=x.device)
    m = batch * total
    if m:
        launch(kernel, tiles(kernel, m, n), (x, table, y, m, n, x.shape[1], total))
    return y
