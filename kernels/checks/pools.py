"""What kernels of `max_pool` and `average_pool` are given."""

from __future__ import annotations

from torch import Tensor

from updp_rt.ops import MAX_POOL
from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_dtypes, check_image


def check_max_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Shape:
    """The shape of `max_pool`'s result; ValueError unless these are its arguments.

    Args:
        x: an image ``[N, C, H, W]``.
        kernel, stride, padding: ``(vertical, horizontal)``; padding up to half of the kernel.
    """
    check_dtypes("none", x)
    check_image("x", x)
    MAX_POOL.check(x, kernel, stride, padding)
    return MAX_POOL.output_shape({"x": x.shape}, {"kernel": kernel, "stride": stride, "padding": padding})


def check_average_pool(x: Tensor) -> Shape:
    """The shape of `average_pool`'s result, ``[N, C]``; ValueError unless `x` is an image ``[N, C, H, W]``."""
    check_dtypes("none", x)
    check_image("x", x)
    check(x.shape[2] * x.shape[3] > 0, "x has no pixels")
    return tuple(x.shape[:2])
