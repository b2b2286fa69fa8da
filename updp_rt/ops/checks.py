"""What operators check of their arguments; each raises ValueError, saying what is there and what is expected."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from updp_rt.ops.activations import ACTIVATIONS

Pair = tuple[int, int]
Shape = tuple[int, ...]


def check_alike(act: str = "none", **tensors: Tensor | None) -> None:
    """One floating dtype and one device for all, and an activation that exists."""
    if act not in ACTIVATIONS:
        raise ValueError(f"unknown activation {act!r}: choose among {', '.join(ACTIVATIONS)}")
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for what in ("dtype", "device"):
        found = {name: getattr(tensor, what) for name, tensor in given.items()}
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{name} {value}" for name, value in found.items())
            raise ValueError(f"all tensors need one {what}, but got {shown}; convert them with .to()")
    name, first = next(iter(given.items()))
    if not first.is_floating_point():
        raise ValueError(f"{name} must be of a floating dtype, not {first.dtype}")


def check_rows(name: str, shape: Sequence[int]) -> None:
    """It is ``[..., features]``."""
    if not shape:
        raise ValueError(f"{name} is a single value, but [..., features] is expected")


def check_shape(name: str, shape: Sequence[int] | None, expected: Sequence[int | None]) -> None:
    """`shape`, where there is one, is as expected; None stands for any size."""
    if shape is None:
        return
    if len(shape) != len(expected) or any(
        want is not None and size != want for size, want in zip(shape, expected, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} has shape {list(shape)}, but [{wanted}] is expected")


def check_window(x: Sequence[int], name: str, weight: Sequence[int], stride: Pair, padding: Pair) -> None:
    """The kernel `weight` of a convolution fits the padded image `x` at least once."""
    if min(stride) < 1:
        raise ValueError(f"stride must be at least 1, not {tuple(stride)}")
    if min(padding) < 0:
        raise ValueError(f"padding must be at least 0, not {tuple(padding)}")
    if min(conv_shape(x, weight, stride, padding)[2:]) < 1:
        raise ValueError(
            f"the kernel of {name}, {list(weight[2:])}, does not fit an image of {list(x[2:])} "
            f"padded by {tuple(padding)}"
        )


def conv_shape(x: Sequence[int], weight: Sequence[int], stride: Pair, padding: Pair) -> tuple[int, int, int, int]:
    """``[N, O, H', W']`` of a convolution with kernel ``[O, I, kh, kw]`` of ``[N, I, H, W]``."""
    height, width = ((x[2 + i] + 2 * padding[i] - weight[2 + i]) // stride[i] + 1 for i in (0, 1))
    return x[0], weight[0], height, width
