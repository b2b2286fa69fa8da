"""Launches kernels on an emulated MI100 (gfx908) instead of a device, where the emulator is at hand."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import triton
from torch import Tensor
from updp_rt.kernels.triton import Tile
from updp_rt.kernels.triton.ahead import build, pointer_type

OPTIONS = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "waves_per_eu", "matrix_instr_nonkdim", "kpack")


def find_emulator() -> Path | None:
    """Folder of the package ``gfx908emu``: ``$GFX908EMU``, else ``shared/gfx908emu`` in or beside the checkout."""
    root = Path(__file__).parents[2]
    places = [os.environ.get("GFX908EMU"), root / "shared/gfx908emu", root.parent / "shared/gfx908emu"]
    return next((Path(p) for p in places if p and (Path(p) / "gfx908emu/__init__.py").exists()), None)


def emulated(tile: Tile, *, reverse: bool = False) -> Callable[[triton.JITFunction], object]:
    """Takes the place of ``wrap_triton``: ``kernel[grid](...)`` compiles as a launch would, and runs on the emulator.

    Args:
        tile: the tile the operator is called with.
        reverse: run the waves of a workgroup in the other order; results that then differ lack a barrier.
    """
    folder = find_emulator()
    assert folder is not None
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    run_triton = importlib.import_module("gfx908emu").run_triton

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
                constants |= {name: 1 for name, value in values.items() if isinstance(value, int) and value == 1}
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
                run_triton(compiled, grid, *given.values(), threads=1, reverse=reverse, max_insts=20_000_000)

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
