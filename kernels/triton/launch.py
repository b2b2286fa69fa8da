"""Launches: what they tell the compiler of sizes, and by what they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
from torch import Tensor

from ..hip.device import Device, device_of, emulation
from .objects import CarriedKernel, carried, form_of
from .tiles import Tile


def common_unit(*sizes: int) -> int:
    """8 where all sizes and distances are multiples of it, so that lanes may move 16 bytes of halves; else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1


def window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> dict[str, int]:
    """Of a convolution or a pool, ``(vertical, horizontal)`` each, as the kernels name them."""
    sizes = {"KERNEL": kernel, "STRIDE": stride, "PAD": padding}
    return {f"{name}_{axis}": size for name, both in sizes.items() for axis, size in zip("HW", both, strict=True)}


def block(tile: Tile) -> dict[str, int]:
    """What a kernel without a product takes of its tile."""
    return {name: tile.arguments[name] for name in ("BLOCK_M", "BLOCK_N", "num_warps")}


def launch(kernel: Any, grid: int, *arguments: Any, **constants: Any) -> None:
    """``kernel[grid](*arguments, **constants)``, by a kernel that was compiled ahead where one fits.

    Raises:
        ValueError: none fits, and this is an emulated GPU, for which Triton compiles nothing.
    """
    found = _ahead(kernel, arguments, constants)
    if found is None:
        kernel[(grid,)](*arguments, **constants)
        return
    device, ahead = found
    handle, count = device.loaded_code(ahead.form, ahead.code, ahead.name)
    given = [value for value in arguments if value is not None]
    # Triton appends pointers to scratch memory, which these kernels do not need.
    device.queue(handle, ahead.waves, grid, [*given, *(None,) * (count - len(given))], lds=ahead.lds)


def _ahead(kernel: Any, arguments: Any, constants: Any) -> tuple[Device, CarriedKernel] | None:
    if not isinstance(kernel, triton.JITFunction):  # Triton interprets it
        return None
    x = next(value for value in arguments if isinstance(value, Tensor))
    if x.device.type == "cpu" and emulation() is None:
        return None
    device = device_of(x.device)
    kernels = carried(device.arch)
    form = form_of(kernel.__name__, arguments, constants) if kernels else None
    found = kernels.get(form) if form else None
    if found is None and emulation() is not None:
        raise ValueError(
            f"no {kernel.__name__} compiled ahead fits this launch, and nothing compiles for an emulated GPU"
        )
    return None if found is None else (device, found)
