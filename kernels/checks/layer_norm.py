"""What kernels of `layer_norm` and `add_layer_norm` are given."""

from __future__ import annotations

from torch import Tensor

from .tensors import check, check_dtypes, check_packed, check_rows


def check_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """Raise ValueError unless these are arguments of `layer_norm`.

    Args:
        x: rows ``[M, C]``.
        weight: ``[C]``, or None; in the dtype that biases have.
        bias: ``[C]``, or None.
        eps: added to the variance.
    """
    check_dtypes("none", x)
    channels = x.shape[-1]
    check_rows("x", x, channels)
    check(channels > 0, "x has no columns")
    check_packed("weight", weight, (channels,))
    check_packed("bias", bias, (channels,))
    check(eps >= 0, f"eps must be at least 0, not {eps}")


def check_add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """Raise ValueError unless these are arguments of `add_layer_norm`.

    Args:
        x, weight, bias, eps: as those of `check_layer_norm`.
        residual: rows ``[M, C]``.
    """
    check_layer_norm(x, weight, bias, eps)
    check_dtypes("none", x, residual=residual)
    check_rows("residual", residual, x.shape[-1])
    check(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")
