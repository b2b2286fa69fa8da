"""What wrappers of HIP kernels share: a grid laid over the result, checks of the kernel, one launch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from updp_rt.ops import activations

from ..checks import FAR, check
from .device import device_of
from .manifest import HipKernel

# Kernels are told the activation by its index.
ACTIVATIONS: Final = tuple(activations.ACTIVATIONS)


def tiles(kernel: HipKernel, rows: int, columns: int) -> int:
    """Workgroups for a result of this size; ValueError where its rows cannot be counted in 31 bits."""
    check(rows < 2**31, f"{rows} rows or pixels are more than kernels count: split the batch")
    return -(-rows // kernel.block[0]) * -(-columns // kernel.block[1])


def check_sides(x: Tensor) -> None:
    """Pixels are located with divisions in float32 and products of 24 bits, which are exact up to here."""
    _, channels, height, width = x.shape
    largest = max(channels, height, width)
    check(largest < 2**20, f"x has {channels} channels of {height}x{width}: HIP kernels take fewer than 2^20 each way")


def launch(kernel: HipKernel, grid: int, arguments: tuple[Tensor | float | None, ...]) -> None:
    first = arguments[0]
    assert isinstance(first, Tensor)
    device_of(first.device).launch(kernel, grid, arguments)


def check_kernel(
    kernel: HipKernel,
    operator: str,
    x: Tensor,
    biases: tuple[Tensor | None, ...],
    tensors: tuple[Tensor | None, ...],
    sizes: tuple[int, ...],
) -> None:
    check(
        kernel.operator == operator and f"torch.{kernel.dtype}" == str(x.dtype),
        f"{kernel.name} is a kernel for {kernel.operator} in {kernel.dtype}, not for {operator} in {x.dtype}",
    )
    for bias in biases:
        check(bias is None or bias.dtype == torch.float32, "HIP kernels take biases in float32")
    if kernel.aligned:
        unit = 16 // x.element_size()
        check(
            all(size % unit == 0 and size < FAR for size in sizes)
            and all(t is None or t.data_ptr() % 16 == 0 for t in (*tensors, *biases)),
            f"{kernel.name} takes addresses on 16 bytes, and channels and row distances that are multiples of {unit} "
            f"below {FAR}",
        )


def empty_image(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
