"""What kernels of `norm_linear` are given."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import check, check_dtypes, check_packed, check_rows


def check_norm_linear(x: Tensor, weight: Tensor, sums: Tensor, bias: Tensor | None, eps: float, act: str) -> None:
    """Raise ValueError unless these are arguments of `norm_linear`.

    Args:
        x: rows ``[M, K]``.
        weight: ``[N, K]``.
        sums: ``[N]`` float32, those of the weight's rows (`sum_weight`).
        bias: ``[N]``, or None.
        eps: of the norm, added to the variance.
    """
    k, n = x.shape[-1], weight.shape[0]
    check_dtypes(act, x, weight=weight)
    check_rows("x", x, k)
    check(k > 0, "x has no columns")
    check_packed("weight", weight, (n, k))
    check_packed("sums", sums, (n,))
    check(sums.dtype == torch.float32, f"sums of the weight must be float32, not {sums.dtype}")
    check_packed("bias", bias, (n,))
    check(eps >= 0, f"eps must be at least 0, not {eps}")
