"""What the compiler made of a kernel: registers, spills, LDS, matrix instructions and the occupancy they allow.

``python -m updp_rt.kernels.triton.isa`` prints a table over every kernel, dtype, tile and architecture;
``--write`` also records it in ``budgets/``, which the tests hold later compilations to.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import torch
import triton
from triton import knobs
from triton.compiler import CompiledKernel

from .. import DTYPES
from .ahead import compile_kernel
from .tile_tables import ARCHITECTURES, OPERATORS, tiles
from .tiles import Tile

BUDGETS = Path(__file__).parent / "budgets"


@dataclass(frozen=True)
class Figures:
    """Static figures of a compiled kernel.

    Attributes:
        matrix_instructions: MFMA on gfx, wgmma and mma.sync on sm, in the code's text (not how often they run).
        vgprs, sgprs: vector (on sm: all) and scalar registers a lane or wave.
        agprs: accumulation registers; on gfx908 beside vgprs, on gfx90a and gfx942 among them.
        spills: registers spilled, vector and scalar; on sm, bytes.
        scratch: bytes of private memory a lane.
        shared: bytes of LDS or shared memory a workgroup.
        occupancy: waves a SIMD (on sm: warps a quarter of the SM) that registers and shared memory allow, whole
            workgroups only.
    """

    matrix_instructions: int
    vgprs: int
    agprs: int
    sgprs: int
    spills: int
    scratch: int
    shared: int
    occupancy: float


def figures(compiled: CompiledKernel) -> Figures:
    """Read the figures of a kernel compiled for gfx908, gfx90a, gfx942 or sm_90."""
    return _amd(compiled) if "amdgcn" in compiled.asm else _nvidia(compiled)


def _amd(compiled: CompiledKernel) -> Figures:
    text = compiled.asm["amdgcn"]
    arch, warps, shared = compiled.metadata.target.arch, compiled.metadata.num_warps, compiled.metadata.shared

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found, f"no {name} in the kernel's metadata"
        return int(found[1])

    vgprs, agprs, sgprs = field("vgpr_count"), field("agpr_count"), field("sgpr_count")
    if arch == "gfx908":  # two files of 256 registers, given out by 4
        waves = min(10, 256 // _round_up(vgprs, 4), 256 // _round_up(agprs, 4))
    else:  # one file of 512, given out by 8; vgpr_count is of both kinds
        waves = min(8, 512 // _round_up(vgprs, 8))
    waves = min(waves, 800 // _round_up(sgprs, 16))
    groups = min(waves * 4 // warps, 65536 // max(shared, 1))
    return Figures(
        matrix_instructions=len(re.findall(r"^\s+v_mfma_", text, re.M)),
        vgprs=vgprs,
        agprs=agprs,
        sgprs=sgprs,
        spills=field("vgpr_spill_count") + field("sgpr_spill_count"),
        scratch=field("private_segment_fixed_size"),
        shared=shared,
        occupancy=groups * warps / 4,
    )


def _nvidia(compiled: CompiledKernel) -> Figures:
    ptx, warps, shared = compiled.asm["ptx"], compiled.metadata.num_warps, compiled.metadata.shared
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        command = [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", source.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def field(pattern: str) -> int:
        found = re.search(pattern, report)
        assert found, f"no {pattern} in ptxas's report:\n{report}"
        return int(found[1])

    registers = field(r"Used (\d+) registers")
    resident = min(64, 65536 // (_round_up(registers, 8) * 32))  # warps an SM
    groups = min(resident // warps, 32, 228 * 1024 // (shared + 1024))
    return Figures(
        matrix_instructions=len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)),
        vgprs=registers,
        agprs=0,
        sgprs=0,
        spills=field(r"(\d+) bytes spill stores") + field(r"(\d+) bytes spill loads"),
        scratch=field(r"(\d+) bytes stack frame"),
        shared=shared,
        occupancy=groups * warps / 4,
    )


def _round_up(count: int, granule: int) -> int:
    return max(1, -(-count // granule)) * granule


def production_kernels(arch: str) -> Iterator[tuple[str, str, torch.dtype, Tile]]:
    """``(name, operator, dtype, tile)`` of every kernel that `arch` has a tile for, such as ``linear float16 ...``."""
    for operator in OPERATORS:
        for dtype in DTYPES:
            for tile in tiles(operator, arch, dtype):
                yield f"{operator} {str(dtype).removeprefix('torch.')} {tile.name}", operator, dtype, tile


def production_figures(operator: str, dtype: torch.dtype, tile: Tile, arch: str) -> Figures:
    """Figures of one kernel with its costliest epilogue: bias, residual and GELU."""
    return figures(compile_kernel(operator, dtype, tile, arch))


def main() -> None:
    parser = argparse.ArgumentParser(description="Static figures of every kernel, dtype, tile and architecture.")
    parser.add_argument("--write", action="store_true", help=f"also record them in {BUDGETS.name}/")
    write = parser.parse_args().write
    print(f"{'':58}", *(field.name for field in fields(Figures)))
    for arch in ARCHITECTURES:
        found = {name: production_figures(o, dtype, tile, arch) for name, o, dtype, tile in production_kernels(arch)}
        for name, row in found.items():
            values = (f"{value:{len(field.name)}}" for value, field in zip(astuple(row), fields(Figures), strict=True))
            print(f"{arch:7} {name:50}", *values)
        if write:
            record = {"triton": triton.__version__, "kernels": {name: asdict(row) for name, row in found.items()}}
            BUDGETS.mkdir(exist_ok=True)
            (BUDGETS / f"{arch}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
