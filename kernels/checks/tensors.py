"""Checks of tensors as kernels read them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from updp_rt.ops.checks import Pair, check_alike, check_window, conv_shape

from .. import DTYPES

Shape = tuple[int, ...]

# Distance of rows, in elements, from which 32-bit offsets of kernels that move 16 bytes at once do not span a tile.
FAR: Final = 2**22


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_rows(name: str, matrix: Tensor, columns: int) -> None:
    """Raise ValueError unless `matrix` is ``[any, columns]``, each row contiguous; rows may lie any distance apart."""
    check(
        matrix.dim() == 2 and matrix.shape[1] == columns and (columns == 1 or matrix.stride(1) == 1),
        f"{name} must be [rows, {columns}] with contiguous rows, not {list(matrix.shape)} by {list(matrix.stride())}",
    )


def check_packed(name: str, tensor: Tensor | None, shape: Shape) -> None:
    """Raise ValueError unless `tensor`, where there is one, is contiguous and of `shape`."""
    check(
        tensor is None or (tensor.shape == shape and tensor.is_contiguous()),
        f"{name} must be contiguous {list(shape)}, not {_shown(tensor)}",
    )


def check_image(name: str, image: Tensor, shape: Shape | None = None) -> None:
    """Raise ValueError unless `image` is ``[N, C, H, W]`` in channels-last memory, and of `shape` if that is given."""
    check(
        image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last),
        f"{name} must be [N, C, H, W] in channels_last memory, not {_shown(image)}",
    )
    check(shape is None or image.shape == shape, f"{name} must be {list(shape or ())}, not {list(image.shape)}")


def check_dtypes(act: str, x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless `x` has a dtype of `DTYPES`, `others` that are given have the same, and `act` exists."""
    check(x.dtype in DTYPES, f"x is {x.dtype}, but kernels take float32, float16 and bfloat16")
    check_alike(act, x=x, **others)


def as_rows(name: str, tensor: Tensor) -> Tensor:
    """``[M, C]`` as it is; ``[N, C, H, W]`` in channels-last memory as a view ``[N * H * W, C]`` of the same memory."""
    if tensor.dim() == 4:
        check_image(name, tensor)
        return tensor.permute(0, 2, 3, 1).view(-1, tensor.shape[1])
    check_rows(name, tensor, tensor.shape[-1])
    return tensor


def check_convolution(
    x: Tensor, kernel: Tensor, residual: Tensor | None, stride: Pair, padding: Pair, pointwise: Tensor | None = None
) -> Shape:
    """Shape of a convolution's result, of a 1x1 one after it where there is one; `residual` has it too."""
    check_window(x.shape, "weight", kernel.shape, stride, padding)
    batch, channels, height, width = conv_shape(x.shape, kernel.shape, stride, padding)
    shape = (batch, channels if pointwise is None else pointwise.shape[0], height, width)
    if residual is not None:
        check_image("residual", residual, shape)
    return shape


def _shown(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{list(tensor.shape)} by {list(tensor.stride())}"
