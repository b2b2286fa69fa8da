"""A tile of work: the sizes a kernel is compiled with."""

from __future__ import annotations

from dataclasses import dataclass


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

        The last three are options of the AMD compiler. Kernels also declare them as constexpr arguments, since other
        compilers refuse options they don't know.
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
