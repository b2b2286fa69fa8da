"""Launches kernels on an emulated MI100 (gfx908) instead of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton

from updp_rt.emulator import run_triton
from updp_rt.kernels.triton import Tile
from updp_rt.kernels.triton.ahead import compile_launch


def emulated(kernel: triton.JITFunction, tile: Tile, **order: Any) -> object:
    """Takes the place of `kernel`: ``kernel[grid](...)`` compiles as a launch would, and runs on the emulator.

    Args:
        kernel: an operator's.
        tile: the tile the operator is called with.
        order: of waves and workgroups, as `updp_rt.emulator.Module.launch` takes it.
    """

    class Launcher:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def launch(*arguments: object, **keywords: object) -> None:
                values = dict(zip(kernel.arg_names, arguments, strict=False)) | keywords
                compiled, given = compile_launch(kernel, tile, "gfx908", values)
                run_triton(compiled, grid, *given, max_instructions=20_000_000, **order)

            return launch

    return Launcher()
