"""What kernels of `attention` are given."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from .tensors import check, check_dtypes

# Values of a head that there are kernels for.
HEAD_DEPTHS: Final = (32, 64, 96, 128)


def check_attention(qkv: Tensor, heads: int, depth: int) -> None:
    """Raise ValueError unless these are arguments of `attention`.

    Args:
        qkv: ``[N, T, 3 * heads * D]`` contiguous, an image of it below 2 GB: of each token the queries of all heads,
            then the keys, then the values, as timm's joint projection gives them.
        heads: their number.
        depth: D that the kernel is for, one of `HEAD_DEPTHS`.
    """
    check_dtypes("none", qkv)
    shape = f"{list(qkv.shape)} by {list(qkv.stride())}"
    check(qkv.dim() == 3 and qkv.is_contiguous(), f"qkv must be contiguous [N, T, 3 * heads * D], not {shape}")
    tokens, width = qkv.shape[1:]
    check(
        heads > 0 and width == 3 * heads * depth,
        f"qkv has {width} values a token, but 3 x {heads} heads of this kernel's {depth} are {3 * heads * depth}",
    )
    check(tokens * width * qkv.itemsize < 2**31, f"an image of {tokens} tokens of {width} values is not below 2 GB")
