"""What kernels of `prepend_tokens` are given."""

from __future__ import annotations

from torch import Tensor

from .tensors import Shape, check, check_dtypes, check_packed


def check_prepend_tokens(x: Tensor, table: Tensor) -> Shape:
    """The shape of `prepend_tokens`'s result, ``[N, P + T, C]``; ValueError unless these are its arguments.

    Args:
        x: tokens ``[N, T, C]``, contiguous.
        table: ``[P + T, C]``, of which the first P rows are those before x's, and the others are added to x's.
    """
    check_dtypes("none", x, table=table)
    check(x.dim() == 3, f"x must be tokens [N, T, C], not {list(x.shape)}")
    check_packed("x", x, tuple(x.shape))
    batch, tokens, channels = x.shape
    check(
        table.dim() == 2 and table.shape[0] >= tokens,
        f"table must be [P + {tokens}, {channels}], not {list(table.shape)}",
    )
    check_packed("table", table, (table.shape[0], channels))
    return batch, table.shape[0], channels
