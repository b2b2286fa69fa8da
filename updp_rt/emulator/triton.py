"""Runs kernels that Triton compiled ahead of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from updp_rt.emulator.arguments import Value
from updp_rt.emulator.counters import Counters
from updp_rt.emulator.module import Module

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

WAVEFRONT = 64  # lanes


def run_triton(compiled: CompiledKernel, grid: int | Sequence[int], *arguments: Value, **options: Any) -> Counters:
    """Run a kernel compiled for ``GPUTarget("hip", "gfx908", 64)``.

    Args:
        compiled: what ``triton.compile`` returned.
        grid: programs, one to three numbers.
        arguments: the kernel's own, constexpr ones left out.
        options: keywords of `Module.launch`; block, LDS and Triton's scratch pointers are filled in.

    Raises:
        ValueError: compiled for another GPU or for what gfx908 does not have, or too few or many arguments.
        Fault: as `Module.launch`.
    """
    metadata = compiled.metadata
    if metadata.target.arch != "gfx908":
        raise ValueError(f"{metadata.name} was compiled for {metadata.target.arch}; the emulator runs gfx908")
    if metadata.num_ctas != 1 or metadata.launch_cooperative_grid:
        raise ValueError(f"{metadata.name} needs clusters or a cooperative launch, which the emulator does not run")
    types = {name: kind for name, kind in compiled.src.signature.items() if kind != "constexpr"}
    if len(arguments) != len(types):
        raise ValueError(f"{metadata.name}({', '.join(types)}) takes {len(types)} arguments, not {len(arguments)}")
    # A launch by Triton takes an int for a float, too.
    values = [
        float(value) if kind.startswith("fp") and isinstance(value, int) else value
        for kind, value in zip(types.values(), arguments, strict=True)
    ]
    programs = grid if isinstance(grid, int) else math.prod(grid)
    # Triton appends two pointers to every kernel's arguments, null where it needs no such memory.
    scratch = [_scratch(metadata, kind, programs) for kind in ("global", "profile")]
    block = metadata.num_warps * WAVEFRONT
    module = _load(compiled.asm["hsaco"])
    return module.launch(metadata.name, grid, block, *values, *scratch, dynamic_lds=metadata.shared, **options)


@lru_cache(maxsize=64)
def _load(code: bytes) -> Module:
    return Module(code)


def _scratch(metadata: Any, kind: str, programs: int) -> Value:
    size = getattr(metadata, f"{kind}_scratch_size", 0) * programs
    return np.zeros(size, np.uint8) if size else None
