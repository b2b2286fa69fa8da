"""What kernels of `mlp` are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .tensors import check, check_dtypes, check_packed, check_rows


class MlpWeights(NamedTuple):
    """Both layers': w1 ``[H, K]``, b1 ``[H]`` or None, w2 ``[N, H]``, b2 ``[N]`` or None."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None


def check_mlp_weights(weights: MlpWeights) -> None:
    """Raise ValueError unless these are weights of `mlp`."""
    w1, b1, w2, b2 = weights
    check_dtypes("none", w1, w2=w2)
    check_packed("w1", w1, (w1.shape[0], w1.shape[-1]))
    check_packed("b1", b1, (w1.shape[0],))
    check_packed("w2", w2, (w2.shape[0], w1.shape[0]))
    check_packed("b2", b2, (w2.shape[0],))


def check_mlp(x: Tensor, k: int, n: int, like: Tensor, residual: Tensor | None, act: str, eps: float) -> None:
    """Raise ValueError unless these are arguments of `mlp`.

    Args:
        x: rows ``[M, K]``.
        k, n: K and N of the weights; `like`, any of theirs, has their dtype.
        residual: rows ``[M, N]``, or None.
        act: between the two layers.
        eps: of a layer norm of x; 0: there is none.
    """
    check_dtypes(act, x, weights=like, residual=residual)
    check_rows("x", x, k)
    check(eps >= 0, f"eps must be at least 0, not {eps}")
    if residual is not None:
        check_rows("residual", residual, n)
        check(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")
