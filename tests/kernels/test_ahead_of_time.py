"""Every kernel compiles for every architecture, within the budgets that are checked in."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
import triton

from updp_rt.kernels import DTYPES
from updp_rt.kernels.triton import ARCHITECTURES, OPERATORS, Tile, tiles
from updp_rt.kernels.triton.ahead import compile_kernel
from updp_rt.kernels.triton.isa import BUDGETS, figures, production_figures, production_kernels

SHARED_MEMORY = {"gfx908": 64, "gfx90a": 64, "gfx942": 64, "sm_90": 227}  # KB a workgroup may have
EVERY_KERNEL = [
    pytest.param(
        arch,
        *kernel,
        id=f"{arch}-{name.replace(' ', '-')}",
        marks=() if arch == "gfx908" else pytest.mark.slow,
    )
    for arch in ARCHITECTURES
    for name, *kernel in production_kernels(arch)
]


@cache
def budget(arch: str) -> dict:
    return json.loads((BUDGETS / f"{arch}.json").read_text())


@pytest.mark.parametrize(("arch", "operator", "dtype", "tile"), EVERY_KERNEL)
def test_compiles_within_budget(arch: str, operator: str, dtype: torch.dtype, tile: Tile) -> None:
    found = production_figures(operator, dtype, tile, arch)
    # IEEE float32 has no matrix instruction on sm_90, and these only stream memory.
    norms = ("layer_norm", "add_layer_norm")
    streams = ("depthwise_conv2d", "max_pool", "average_pool", "epilogue", "prepend_tokens", *norms)
    multiplies = operator not in streams and (arch, dtype) != ("sm_90", torch.float32)
    assert (found.matrix_instructions > 0) == multiplies
    assert found.spills == 0
    assert found.scratch == 0
    assert found.shared <= SHARED_MEMORY[arch] * 1024
    if arch == "gfx908":
        assert found.occupancy >= 2
    recorded = budget(arch)["kernels"][f"{operator} {str(dtype).removeprefix('torch.')} {tile.name}"]
    if budget(arch)["triton"] == triton.__version__:  # another compiler allots registers another way
        assert found.occupancy >= recorded["occupancy"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_7x7_stays_in_registers_on_gfx908(dtype: torch.dtype) -> None:
    kernels = [(o, tile) for o in ("depthwise_pointwise", "depthwise_conv2d") for tile in tiles(o, "gfx908", dtype)]
    for operator, tile in kernels:
        compiled = compile_kernel(operator, dtype, tile, "gfx908", kernel_size=(7, 7), padding=(3, 3))
        found = figures(compiled)
        assert (found.spills, found.scratch) == (0, 0)
        assert found.occupancy >= 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_budgets_are_of_the_kernels_there_are(arch: str) -> None:
    assert budget(arch)["kernels"].keys() == {name for name, *_ in production_kernels(arch)}


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch.startswith("gfx")])
def test_no_tile_is_one_that_triton_compiles_wrongly(arch: str) -> None:
    for operator in OPERATORS:
        for dtype in DTYPES:
            for tile in tiles(operator, arch, dtype):
                halves = dtype != torch.float32
                assert not (halves and tile.block_k == 16 and tile.kpack == 2 and tile.matrix_instr_nonkdim != 32)
