"""What kernels of `linear` are given."""

from __future__ import annotations

from torch import Tensor

from .tensors import check, check_dtypes, check_packed, check_rows


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> None:
    """Raise ValueError unless these are arguments of `linear`.

    Args:
        x: rows ``[M, K]``.
        weight: ``[N, K]``.
        bias: ``[N]``, or None.
        residual: rows ``[M, N]``, or None.
    """
    k, n = x.shape[-1], weight.shape[0]
    check_dtypes(act, x, weight=weight, residual=residual)
    check_rows("x", x, k)
    check_packed("weight", weight, (n, k))
    check_packed("bias", bias, (n,))
    if residual is not None:
        check_rows("residual", residual, n)
        check(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")
