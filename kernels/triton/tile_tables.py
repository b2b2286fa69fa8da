"""Which tiles each architecture offers, from small results to large; `tiles` reads them.

Chosen by what the compiler makes of them (``python -m updp_rt.kernels.triton.isa``); nothing here was timed. What was
looked for on gfx908, in the loop over K: no spills, no accumulators moved between register files, few LDS reads a
matrix instruction, and four waves a SIMD, which hide the latency of loads. That holds where channels are multiples of
8; with others, lanes move single values, and some of these kernels spill scalar registers.

float16 with ``block_k=16``, ``matrix_instr_nonkdim=16`` and ``kpack=2`` is compiled to a silently wrong product by
Triton 3.6 and 3.7, so half-precision tiles have ``block_k >= 32``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from .tiles import Tile

OPERATORS = (
    "linear",
    "conv2d",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "mlp",
    "inverted_residual",
    "max_pool",
    "average_pool",
    "epilogue",
    "layer_norm",
    "add_layer_norm",
    "norm_linear",
    "prepend_tokens",
    "attention",
)
ARCHITECTURES = ("gfx908", "gfx90a", "gfx942", "sm_90")

Table = dict[str, dict[torch.dtype, tuple[Tile, ...]]]


def _each(halves: tuple[Tile, ...], floats: tuple[Tile, ...]) -> dict[torch.dtype, tuple[Tile, ...]]:
    return {torch.float16: halves, torch.bfloat16: halves, torch.float32: floats}


_HEADS = (32, 64, 96, 128)  # values of attention's heads

# Kernels without a product only stream memory: every architecture takes the same.
_PASS = (Tile(16, 64, 1, num_stages=1), Tile(16, 256, 1, num_stages=1))
# So do norms of rows, which are whole in a tile where it is as wide.
_ROWS = (Tile(32, 128, 1, num_stages=1), Tile(16, 256, 1, num_stages=1), Tile(8, 1024, 1, num_stages=1))
_WINDOWS = (Tile(32, 64, 1, num_stages=1), Tile(64, 64, 1, num_stages=1))
_STREAMED: dict[str, dict[torch.dtype, tuple[Tile, ...]]] = {
    "depthwise_conv2d": _each(_WINDOWS, _WINDOWS),
    "max_pool": _each(_WINDOWS, _WINDOWS),
    "average_pool": _each(_PASS[:1], _PASS[:1]),
    "epilogue": _each(_PASS, _PASS),
    "layer_norm": _each(_ROWS, _ROWS),
    "add_layer_norm": _each(_ROWS[1:2], _ROWS[1:2]),
    "prepend_tokens": _each(_PASS, _PASS),
}


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
    # Queries by keys by the values of a head: a tile serves one depth. Many queries share what is read of the values,
    # which is one by one. Deep heads in float32 have two waves a SIMD beside their operands in LDS with eight warps;
    # those of 64 in half precision stay in registers with every triton where nothing is loaded ahead.
    attend = {"waves_per_eu": 2, "matrix_instr_nonkdim": 16}
    attention = (
        Tile(128, 64, 32, **attend),
        Tile(128, 64, 64, num_stages=1, **attend),
        *(Tile(64, 64, depth, num_stages=1, **attend) for depth in (96, 128)),
    )
    attention_floats = (
        *(Tile(64, 64, depth, num_stages=1, **attend) for depth in (32, 64)),
        *(Tile(64, 32, depth, num_warps=8, num_stages=1, **attend) for depth in (96, 128)),
    )
    # All columns of a row in one tile where they fit: another tile would make what lies between the layers again.
    whole = (
        Tile(64, 128, 32, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
        Tile(64, 256, 64, num_warps=8, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
    )
    whole_floats = (
        Tile(64, 128, 16, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
        Tile(64, 256, 16, num_warps=8, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
    )
    inverted = (
        Tile(64, 32, 32, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
        Tile(64, 128, 32, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=2),
    )
    inverted_floats = (
        Tile(64, 32, 16, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
        Tile(64, 128, 16, num_stages=1, waves_per_eu=2, matrix_instr_nonkdim=16),
    )
    return {
        "attention": _each(attention, attention_floats),
        "linear": _each((few_rows, small, large), floats),
        # The norm takes registers too: kept to 64 of them, Triton 3.9 spills.
        "norm_linear": _each((small, replace(large, waves_per_eu=2)), floats),
        "conv2d": _each((few_channels, small, large), floats),
        "dual_linear": _each((small, large), floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "mlp": _each(whole, whole_floats),
        "inverted_residual": _each(inverted, inverted_floats),
        **_STREAMED,
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
    attention = tuple(Tile(64, 64, depth, num_stages=1, matrix_instr_nonkdim=16) for depth in _HEADS)
    attention_floats = tuple(Tile(64, 32, depth, num_stages=1, matrix_instr_nonkdim=16) for depth in _HEADS)
    return {
        "attention": _each(attention, attention_floats),
        "linear": _each((small, large), floats),
        "norm_linear": _each((small, large), floats),
        "conv2d": _each((small, large), floats),
        "dual_linear": _each((small, large), floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "mlp": _each(mixed, mixed_floats),
        "inverted_residual": _each(mixed[:1], mixed_floats[:1]),
        **_STREAMED,
    }


def _sm_90() -> Table:
    halves = (Tile(64, 64, 64, num_stages=3), Tile(128, 128, 64, num_warps=8, num_stages=3))
    floats = (Tile(64, 64, 16), Tile(128, 64, 16, num_warps=8))
    mixed = (Tile(64, 128, 32, num_stages=1), Tile(64, 256, 64, num_warps=8, num_stages=1))
    mixed_floats = (Tile(64, 64, 16, num_stages=1), Tile(64, 128, 16, num_warps=8, num_stages=1))
    attention = tuple(Tile(64, 64, depth) for depth in _HEADS)
    return {
        "attention": _each(attention, ()),  # without matrix instructions for it float32 spills
        "linear": _each(halves, floats),
        "norm_linear": _each(halves, floats),
        "conv2d": _each(halves, floats),
        "dual_linear": _each(halves, floats),
        "depthwise_pointwise": _each(mixed, mixed_floats),
        "mlp": _each(mixed, mixed_floats),
        "inverted_residual": _each(mixed[:1], mixed_floats[:1]),
        **_STREAMED,
    }


def _interpreter() -> Table:
    """Small, so that tests cross many borders; without bfloat16, whose products the interpreter computes wrongly."""
    both = (Tile(16, 16, 16, group_m=2), Tile(32, 64, 32))
    table: dict[torch.dtype, tuple[Tile, ...]] = {torch.float16: both, torch.float32: both}
    heads = (Tile(16, 16, 32), Tile(32, 32, 32))
    return dict.fromkeys(OPERATORS, table) | {"attention": {torch.float16: heads, torch.float32: heads}}


TABLES: Final[dict[str, Table]] = {
    "gfx908": _gfx908(),
    "gfx90a": _gfx9(block_k=32),
    "gfx942": _gfx9(block_k=64),
    "sm_90": _sm_90(),
    "interpreter": _interpreter(),
}


def tiles(operator: str, arch: str, dtype: torch.dtype) -> tuple[Tile, ...]:
    """The tiles `operator` offers on `arch` for `dtype`, from small results to large.

    An architecture without a table of its own uses the nearest: other gfx9 that of gfx90a, other sm that of sm_90.

    Raises:
        ValueError: unknown operator, architecture or dtype.
    """
    if operator not in OPERATORS:
        raise ValueError(f"unknown operator {operator!r}: choose among {', '.join(OPERATORS)}")
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
