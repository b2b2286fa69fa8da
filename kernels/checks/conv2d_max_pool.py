"""What kernels of `conv2d_max_pool` are given."""

from __future__ import annotations

from torch import Tensor

from updp_rt.ops import CONV2D_MAX_POOL
from updp_rt.ops.checks import Pair

from .tensors import Shape, check, check_dtypes, check_image, check_packed

# Of the one kind of stem that has kernels, a ResNet's: channels of the image; kernel, stride and padding of the
# convolution; window, stride and padding of the pool.
STEM_CHANNELS = 3
CONVOLUTION: tuple[Pair, Pair, Pair] = ((7, 7), (2, 2), (3, 3))
POOL: tuple[Pair, Pair, Pair] = ((3, 3), (2, 2), (1, 1))
# They give no negative values, so that the largest of them is that of the largest sum.
STEM_ACTIVATIONS = ("relu", "relu6")


def check_conv2d_max_pool(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Shape:
    """The shape of `conv2d_max_pool`'s result; ValueError unless these are its arguments, for a ResNet's stem.

    Args:
        x: an image ``[N, 3, H, W]``.
        weight: ``[O, 3, 7, 7]``, in any layout. The stride is 2 and the padding 3; the pool 3x3, at stride 2, padded
            by 1.
        bias: ``[O]``, or None.
        act: relu or relu6.
    """
    check_dtypes(act, x, weight=weight)
    check_image("x", x)
    check(
        weight.dim() == 4 and weight.shape[1:] == (STEM_CHANNELS, *CONVOLUTION[0]),
        f"weight must be [O, 3, 7, 7], not {list(weight.shape)}",
    )
    check(act in STEM_ACTIVATIONS, f"act must be one of {', '.join(STEM_ACTIVATIONS)}, not {act}")
    check_packed("bias", bias, (weight.shape[0],))
    attributes = (act, *CONVOLUTION[1:], *POOL)
    CONV2D_MAX_POOL.check(x, weight, None, *attributes)
    shapes = {"x": x.shape, "weight": weight.shape}
    return CONV2D_MAX_POOL.output_shape(shapes, dict(zip(CONV2D_MAX_POOL.attributes, attributes, strict=True)))
