"""Which tiles each architecture offers, from small results to large; `tiles.tiles` reads them.

Chosen by what the compiler makes of them (``python -m updp_rt.kernels.triton.isa``); nothing here was timed. What was
looked for on gfx908, in the loop over K: no spills, no accumulators moved between register files, few LDS reads a
matrix instruction, and four waves a SIMD, which hide the latency of loads. That holds where channels are multiples of
8; with others, lanes move single values, and some of these kernels spill scalar registers.

float16 with ``block_k=16``, ``matrix_instr_nonkdim=16`` and ``kpack=2`` is compiled to a silently wrong product by
Triton 3.6 and 3.7, so half-precision tiles have ``block_k >= 32``.
"""

from __future__ import annotations

from typing import Final

import torch

from .tiles import Tile

Table = dict[str, dict[torch.dtype, tuple[Tile, ...]]]


def _each(halves: tuple[Tile, ...], floats: tuple[Tile, ...]) -> dict[torch.dtype, tuple[Tile, ...]]:
    return {torch.float16: halves, torch.bfloat16: halves, torch.float32: floats}


# The epilogue only streams memory: every architecture takes the same.
_PASS = (Tile(16, 64, 1, num_stages=1), Tile(16, 256, 1, num_stages=1))


def _gfx908() -> Table:
    small = Tile(64, 64, 32, waves_per_eu=4, matrix_instr_nonkdim=16, kpack=2)
    # 32x32 instructions: with 16x16 the accumulators of this tile are moved about in the loop.
    large = Tile(128, 128, 32, num_warps=8, waves_per_eu=4, matrix_instr_nonkdim=32, kpack=2)
    few_rows = Tile(32, 64, 64, waves_per_eu=4, matrix_instr_nonkdim=16, kpack=2)
    few_channels = Tile(128, 32, 32, waves_per_eu=4, matrix_instr_nonkdim=32, kpack=2)
    floats = (
        Tile(64, 64, 16, waves_per_eu=4, matrix_instr_nonkdim=16, kpack=2),
        Tile(128, 64, 16, num_warps=8, waves_per_eu=4, matrix_instr_nonkdim=32, kpack=2),
    )
    # The depthwise part is repeated for every tile of columns, so these are wide; eight channels a lane, one load.
    mixed = (
        Tile(64, 128, 32, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
        Tile(64, 256, 64, num_warps=8, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
    )
    mixed_floats = (
        Tile(64, 64, 16, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
        Tile(64, 128, 32, num_warps=8, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
    )
    return {
        "linear": _each((few_rows, small, large), floats),
        "conv2d": _each((few_channels, small, large), floats),
        "dual_linear": _each((small, large), floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "epilogue": _each(_PASS, _PASS),
    }


def _gfx9(block_k: int) -> Table:
    """gfx90a and gfx942, whose accumulators share one register file with everything else."""
    small = Tile(64, 64, block_k, matrix_instr_nonkdim=16, kpack=2)
    large = Tile(128, 128, block_k, num_warps=8, matrix_instr_nonkdim=16, kpack=2)
    floats = (Tile(64, 64, 16, matrix_instr_nonkdim=16), Tile(128, 64, 16, num_warps=8, matrix_instr_nonkdim=16))
    mixed = (
        Tile(64, 128, 32, num_stages=1, matrix_instr_nonkdim=16),
        Tile(64, 256, 64, num_warps=8, num_stages=1, matrix_instr_nonkdim=16),
    )
    mixed_floats = (
        Tile(64, 64, 16, num_stages=1, matrix_instr_nonkdim=16),
        Tile(64, 128, 32, num_warps=8, num_stages=1, matrix_instr_nonkdim=16),
    )
    return {
        "linear": _each((small, large), floats),
        "conv2d": _each((small, large), floats),
        "dual_linear": _each((small, large), floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "epilogue": _each(_PASS, _PASS),
    }


def _sm_90() -> Table:
    halves = (Tile(64, 64, 64, num_stages=3), Tile(128, 128, 64, num_warps=8, num_stages=3))
    floats = (Tile(64, 64, 16), Tile(128, 64, 16, num_warps=8))
    mixed = (Tile(64, 128, 32, num_stages=1), Tile(64, 256, 64, num_warps=8, num_stages=1))
    mixed_floats = (Tile(64, 64, 16, num_stages=1), Tile(64, 128, 16, num_warps=8, num_stages=1))
    return {
        "linear": _each(halves, floats),
        "conv2d": _each(halves, floats),
        "dual_linear": _each(halves, floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "epilogue": _each(_PASS, _PASS),
    }


def _interpreter() -> Table:
    """Small, so that tests cross many borders; without bfloat16, whose products the interpreter computes wrongly."""
    both = (Tile(16, 16, 16, group_m=2), Tile(32, 64, 32))
    table: dict[torch.dtype, tuple[Tile, ...]] = {torch.float16: both, torch.float32: both}
    return dict.fromkeys(("linear", "conv2d", "dual_linear", "depthwise_pointwise", "epilogue"), table)


TABLES: Final[dict[str, Table]] = {
    "gfx908": _gfx908(),
    "gfx90a": _gfx9(block_k=32),
    "gfx942": _gfx9(block_k=64),
    "sm_90": _sm_90(),
    "interpreter": _interpreter(),
}
