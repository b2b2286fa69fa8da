"""Launches kernels on an emulated MI100 (gfx908) instead of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from updp_rt.kernels.triton import Tile
from updp_rt.kernels.triton.ahead import build, pointer_type

from updp_rt.emulator import run_triton

OPTIONS = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "waves_per_eu", "matrix_instr_nonkdim", "kpack")


def emulated(tile: Tile, **order: Any) -> Callable[[triton.JITFunction], object]:
    """Takes the place of ``wrap_triton``: ``kernel[grid](...)`` compiles as a launch would, and runs on the emulator.

    Args:
        tile: the tile the operator is called with.
        order: of waves and workgroups, as `updp_rt.emulator.Module.launch` takes it.
    """

    class Launcher:
        def __init__(self, kernel: triton.JITFunction) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def launch(*arguments: object, **keywords: object) -> None:
                values = dict(zip(self.kernel.arg_names, arguments, strict=False)) | keywords
                # As in a launch: None and 1 are compiled in, and what is a multiple of 16 is known to be.
                constants = {
                    name: value
                    for name, value in values.items()
                    if value is None or isinstance(value, (str, bool)) or name.isupper() or name in OPTIONS
                }
                constants |= {name: 1 for name, value in values.items() if type(value) is int and value == 1}
                given = {name: values[name] for name in self.kernel.arg_names if name not in constants}
                compiled = build(
                    self.kernel,
                    tile,
                    "gfx908",
                    types={name: _type(value) for name, value in given.items()},
                    constants=constants,
                    multiples={name for name, value in given.items() if _number(value) % 16 == 0},
                    near={name for name, value in given.items() if _is_near(value)},
                )
                run_triton(compiled, grid, *given.values(), max_instructions=20_000_000, **order)

            return launch

    return Launcher


def _type(value: object) -> str:
    if isinstance(value, Tensor):
        return pointer_type(value.dtype)
    assert isinstance(value, int)
    return "i32" if value < 2**31 else "i64"


def _is_near(value: object) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().nbytes() < 2**31


def _number(value: object) -> int:
    if isinstance(value, Tensor):
        return value.data_ptr()
    assert isinstance(value, int)
    return value
