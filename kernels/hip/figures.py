"""What a compiler made of each kernel: registers, spills, LDS, occupancy, and counts of the instructions."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_INSTRUCTIONS = {"matrix": ("v_mfma_",), "lds_access": ("ds_",), "global_memory": ("global_", "buffer_", "flat_")}


@dataclass(frozen=True)
class Figures:
    """Static figures of a kernel; None where they are not known.

    Attributes:
        vgprs: vector registers a lane; on sm, all registers.
        agprs: accumulation registers a lane; on gfx908 beside vgprs, on gfx90a and gfx942 among them.
        sgprs: scalar registers a wave.
        spills: registers spilled, vector and scalar; on sm, bytes.
        scratch: bytes of private memory a lane.
        lds: bytes of LDS or shared memory a workgroup.
        occupancy: waves a SIMD that registers and LDS allow, whole workgroups only; gfx only.
        matrix, lds_access, global_memory: MFMA, LDS, and global instructions in the code's text (not how often they
            run); gfx908 only.
    """

    vgprs: int
    agprs: int
    sgprs: int
    spills: int
    scratch: int
    lds: int
    occupancy: float | None = None
    matrix: int | None = None
    lds_access: int | None = None
    global_memory: int | None = None


def amd_figures(code: bytes) -> dict[str, Figures]:
    """Figures of every kernel in a code object, by name.

    Raises:
        ValueError: `code` is no code object.
        OSError: the launcher, which reads them, is not built.
    """
    try:
        from updp_rt import _launcher
    except ImportError as error:
        raise OSError("the launcher, which reads code objects, is not built: pip install -e . builds it") from error

    described = _launcher.describe(code)
    counts = _gfx908_counts(code, [kernel["name"] for kernel in described["kernels"]], described["arch"])
    return {
        kernel["name"]: Figures(
            vgprs=kernel["vgprs"],
            agprs=kernel["agprs"],
            sgprs=kernel["sgprs"],
            spills=kernel["vgpr_spills"] + kernel["sgpr_spills"],
            scratch=kernel["scratch_bytes"],
            lds=kernel["lds_bytes"],
            occupancy=occupancy(
                described["arch"],
                vgprs=kernel["vgprs"],
                agprs=kernel["agprs"],
                sgprs=kernel["sgprs"],
                lds=kernel["lds_bytes"],
                waves=-(-kernel["max_workgroup_size"] // 64),
            ),
            **counts.get(kernel["name"], {}),
        )
        for kernel in described["kernels"]
    }


def occupancy(arch: str, *, vgprs: int, agprs: int, sgprs: int, lds: int, waves: int) -> float:
    """Waves that a SIMD holds at once, of workgroups of `waves` waves with `lds` bytes; a CU has four SIMDs."""
    if arch.startswith("gfx908"):  # two files of 256 registers, given out by 4
        resident = min(10, 256 // _round_up(vgprs, 4), 256 // _round_up(agprs, 4))
    else:  # one file of 512, given out by 8; vgprs are of both kinds
        resident = min(8, 512 // _round_up(vgprs, 8))
    resident = min(resident, 800 // _round_up(sgprs, 16))
    groups = min(resident * 4 // waves, 65536 // max(lds, 1))
    return groups * waves / 4


def nvidia_figures(report: str) -> dict[str, Figures]:
    """Figures of every kernel in ``nvcc --resource-usage``'s report, by name."""
    found = {}
    for name, account in re.findall(r"entry function '(\w+)' for '\w+'(.*?)(?=entry function|\Z)", report, re.S):

        def number(pattern: str, account: str = account) -> int:
            match = re.search(pattern, account)
            return int(match[1]) if match else 0

        found[name] = Figures(
            vgprs=number(r"Used (\d+) registers"),
            agprs=0,
            sgprs=0,
            spills=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            scratch=number(r"(\d+) bytes stack frame"),
            lds=number(r"(\d+) bytes smem"),
        )
    return found


def _gfx908_counts(code: bytes, names: list[str], arch: str) -> dict[str, dict[str, int]]:
    if arch != "gfx908":
        return {}
    from updp_rt.emulator._core import Program

    program = Program(code)
    return {name: count_instructions([line[2] for line in program.disassemble(name)]) for name in names}


def count_instructions(mnemonics: list[str]) -> dict[str, int]:
    """How many of `mnemonics` are MFMA, LDS and global memory instructions, by the names `Figures` has for them."""
    kinds = Counter(
        kind for mnemonic in mnemonics for kind, prefix in _INSTRUCTIONS.items() if mnemonic.startswith(prefix)
    )
    return {kind: kinds[kind] for kind in _INSTRUCTIONS}


def _round_up(count: int, granule: int) -> int:
    return max(1, -(-count // granule)) * granule
