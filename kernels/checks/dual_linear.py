"""What kernels of `dual_linear` are given."""

from __future__ import annotations

from torch import Tensor

from .tensors import check, check_dtypes, check_packed, check_rows


def check_dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> None:
    """Raise ValueError unless these are arguments of `dual_linear`.

    Args:
        x, a: rows ``[M, KX]`` and ``[M, KA]``.
        w_x, w_a: ``[N, KX]`` and ``[N, KA]``.
        bias: ``[N]``, or None.
    """
    n = w_x.shape[0]
    check_dtypes(act, x, a=a, w_x=w_x, w_a=w_a)
    check_rows("x", x, x.shape[-1])
    check_rows("a", a, a.shape[-1])
    check(a.shape[0] == x.shape[0], f"a has {a.shape[0]} rows, x {x.shape[0]}")
    check_packed("w_x", w_x, (n, x.shape[-1]))
    check_packed("w_a", w_a, (n, a.shape[-1]))
    check_packed("bias", bias, (n,))
