"""Tiles of work: the sizes a kernel is compiled with, and which of them each architecture offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from triton import knobs

OPERATORS = ("linear", "conv2d", "depthwise_pointwise", "dual_linear", "epilogue")
ARCHITECTURES = ("gfx908", "gfx90a", "gfx942", "sm_90")


@dataclass(frozen=True)
class Tile:
    """One way to cut an operator's result, and how the compiler is to schedule it.

    Attributes:
        block_m, block_n: rows and columns of the result a program computes; both at least 16, the least a matrix
            instruction takes.
        block_k: columns of the operands a step of the loop loads.
        group_m: tiles of rows that go over the columns together, to share weights in L2.
        num_warps, num_stages: warps (64 lanes on gfx, 32 on sm) a program, and loads in flight.
        waves_per_eu: waves a SIMD the compiler fits its registers to; 0 leaves it free. gfx908 only.
        matrix_instr_nonkdim: 16 or 32, the side of the matrix instruction; 0 leaves it free. gfx only.
        kpack: matrix instructions whose operands are read from LDS at once. gfx only.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int = 8
    num_warps: int = 4
    num_stages: int = 2
    waves_per_eu: int = 0
    matrix_instr_nonkdim: int = 0
    kpack: int = 1

    @property
    def name(self) -> str:
        """Such as ``128x64x32w4s2``: block sizes, warps, stages. Unique within a table."""
        return f"{self.block_m}x{self.block_n}x{self.block_k}w{self.num_warps}s{self.num_stages}"

    @property
    def arguments(self) -> dict[str, int]:
        """Keyword arguments of a launch.

        The last three are options of the AMD compiler. Kernels also declare them as constexpr arguments, since torch
        traces only a kernel's own arguments, and since other compilers refuse options they don't know.
        """
        return {
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "BLOCK_K": self.block_k,
            "GROUP_M": self.group_m,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "waves_per_eu": self.waves_per_eu,
            "matrix_instr_nonkdim": self.matrix_instr_nonkdim,
            "kpack": self.kpack,
        }


def tiles(operator: str, arch: str, dtype: torch.dtype) -> tuple[Tile, ...]:
    """The tiles `operator` offers on `arch` for `dtype`, from small results to large.

    An architecture without a table of its own uses the nearest: other gfx9 that of gfx90a, other sm that of sm_90.

    Raises:
        ValueError: unknown operator, architecture or dtype.
    """
    from .tile_tables import TABLES

    if operator not in OPERATORS:
        raise ValueError(f"operator {operator!r} is none of {', '.join(OPERATORS)}")
    if arch not in TABLES:
        known = {"gfx9": "gfx90a", "sm_": "sm_90"}
        nearest = next((table for prefix, table in known.items() if arch.startswith(prefix)), None)
        if nearest is None:
            raise ValueError(f"no tiles for architecture {arch!r}; there are tables for {', '.join(TABLES)}")
        arch = nearest
    table = TABLES[arch][operator]
    if dtype not in table:
        raise ValueError(f"{operator} has no tiles for {dtype}")
    return table[dtype]


def tile(operator: str, arch: str, dtype: torch.dtype, name: str) -> Tile:
    """The tile called `name` in ``tiles(operator, arch, dtype)``; ValueError where there is none."""
    table = tiles(operator, arch, dtype)
    for candidate in table:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in table)
    raise ValueError(f"{operator} on {arch} with {dtype} has no tile {name!r}, but {names}")


@cache
def architecture(device: torch.device) -> str:
    """``gfx908`` and the like for an AMD device, ``sm_90`` and the like for an NVIDIA one.

    A CPU under Triton's interpreter is ``interpreter``.

    Raises:
        ValueError: Triton kernels do not run on `device`.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        if torch.version.hip:
            return properties.gcnArchName.split(":")[0]
        return f"sm_{properties.major}{properties.minor}"
    if device.type == "cpu" and knobs.runtime.interpret:
        return "interpreter"
    raise ValueError(f"Triton kernels do not run on {device}")


def tile_for(operator: str, tensor: Tensor, name: str) -> Tile:
    """The tile called `name` of the device and dtype of `tensor`; ValueError where there is none."""
    return tile(operator, architecture(tensor.device), tensor.dtype, name)
