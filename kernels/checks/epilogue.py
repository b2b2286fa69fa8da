"""What kernels of `epilogue` are given."""

from __future__ import annotations

from torch import Tensor

from .tensors import as_rows, check, check_dtypes, check_packed


def check_epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> tuple[Tensor, Tensor | None]:
    """`y` and `residual` as rows; ValueError unless these are arguments of `epilogue`.

    Args:
        y: rows ``[M, C]`` or an image, written over.
        bias: ``[C]``, or None.
        residual: as y in shape and layout, or None.
    """
    check_dtypes(act, y, residual=residual)
    check(residual is None or residual.shape == y.shape, "residual must have the shape of y")
    rows = as_rows("y", y)
    check_packed("bias", bias, (rows.shape[1],))
    return rows, None if residual is None else as_rows("residual", residual)
