"""Checks of the operators' arguments, whatever language their kernels are written in."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu", "relu6", "gelu", "silu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `tensor` is contiguous and of `shape`."""
    check(
        tensor.shape == shape and tensor.is_contiguous(),
        f"{name} must be contiguous {list(shape)}, not {list(tensor.shape)} by {list(tensor.stride())}",
    )


def check_image(name: str, image: Tensor) -> None:
    """Raise ValueError unless `image` is ``[N, C, H, W]`` in channels-last memory."""
    check(
        image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last),
        f"{name} must be [N, C, H, W] in channels_last memory, not {list(image.shape)} by {list(image.stride())}",
    )


def check_dtypes(x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless `x` has a supported dtype and all `others` that are given have the same."""
    check(x.dtype in DTYPES, f"dtype {x.dtype} is none of float32, float16, bfloat16")
    for name, other in others.items():
        check(other is None or other.dtype == x.dtype, f"{name} must be {x.dtype} as x is")


def output_size(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of a convolution's result; ValueError where the kernel does not fit even once."""
    height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    check(height > 0 and width > 0, f"a kernel of {kernel} does not fit {size} padded by {padding}")
    return height, width


def check_activation(act: str) -> None:
    """Raise ValueError unless `act` is one of `ACTIVATIONS`."""
    if act not in ACTIVATIONS:
        raise ValueError(f"activation {act!r} is none of {', '.join(ACTIVATIONS)}")


def as_rows(name: str, tensor: Tensor) -> Tensor:
    """``[M, C]`` as it is; ``[N, C, H, W]`` in channels-last memory as a view ``[N * H * W, C]`` of the same memory."""
    if tensor.dim() == 4:
        check_image(name, tensor)
        return tensor.permute(0, 2, 3, 1).view(-1, tensor.shape[1])
    check_rows(name, tensor, tensor.shape[-1])
    return tensor
