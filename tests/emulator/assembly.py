"""Small kernels written in assembly, and what one wave of them computes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from updp_rt.emulator import Counters, Module

LANES = 64
Words = np.ndarray  # uint32, lanes last

KERNEL = """
.text
.globl {name}
.p2align 8
.type {name},@function
{name}:
{body}
  s_endpgm
.size {name}, .-{name}
.rodata
.p2align 6
.amdhsa_kernel {name}
  .amdhsa_user_sgpr_kernarg_segment_ptr 1
  .amdhsa_user_sgpr_dispatch_ptr 0
  .amdhsa_system_sgpr_workgroup_id_x 1
  .amdhsa_system_vgpr_workitem_id 0
  .amdhsa_next_free_vgpr {registers}
  .amdhsa_next_free_sgpr 96
  .amdhsa_group_segment_fixed_size {lds}
  .amdhsa_private_segment_fixed_size {scratch}
.end_amdhsa_kernel
"""

METADATA = """
  - .name: {name}
    .symbol: {name}.kd
    .kernarg_segment_size: 16
    .kernarg_segment_align: 8
    .group_segment_fixed_size: {lds}
    .private_segment_fixed_size: {scratch}
    .wavefront_size: 64
    .sgpr_count: 96
    .vgpr_count: {registers}
    .max_flat_workgroup_size: 1024
    .args:
      - {{ .name: in, .offset: 0, .size: 8, .value_kind: global_buffer, .address_space: global }}
      - {{ .name: out, .offset: 8, .size: 8, .value_kind: global_buffer, .address_space: global }}"""


@lru_cache(maxsize=64)
def assemble(*bodies: str, lds: int = 1024, scratch: int = 0, registers: int = 256) -> Module:
    """A code object with a kernel ``case_0``, ``case_1``, ... for each body.

    A kernel begins with the addresses of its arguments ``in`` and ``out`` in ``s[0:1]``, the workgroup's number in
    ``s2`` and the lane's in ``v0``.
    """
    sizes = {"lds": lds, "scratch": scratch, "registers": registers}
    names = [f"case_{n}" for n in range(len(bodies))]
    text = "".join(KERNEL.format(name=name, body=body, **sizes) for name, body in zip(names, bodies, strict=True))
    kernels = "".join(METADATA.format(name=name, **sizes) for name in names)
    metadata = f".amdgpu_metadata\namdhsa.version: [1, 1]\namdhsa.kernels:{kernels}\n.end_amdgpu_metadata\n"
    with tempfile.TemporaryDirectory() as folder:
        source, relocatable, code = (Path(folder, name) for name in ("case.s", "case.o", "case.co"))
        source.write_text(text + metadata)
        target = ["-target", "amdgcn-amd-amdhsa", "-mcpu=gfx908"]
        subprocess.run(["clang-15", "-x", "assembler", *target, "-c", source, "-o", relocatable], check=True)
        subprocess.run(["ld.lld-15", "-shared", relocatable, "-o", code], check=True)
        return Module(code)


# Loads 8 words a lane into v1 ... v8, and the last two also into v10 and v11, where results are expected.
PROLOGUE = """
  s_load_dwordx4 s[4:7], s[0:1], 0x0
  v_lshlrev_b32_e32 v0, 2, v0
  s_waitcnt lgkmcnt(0)
  global_load_dword v1, v0, s[4:5]
  global_load_dword v2, v0, s[4:5] offset:256
  global_load_dword v3, v0, s[4:5] offset:512
  global_load_dword v4, v0, s[4:5] offset:768
  global_load_dword v5, v0, s[4:5] offset:1024
  global_load_dword v6, v0, s[4:5] offset:1280
  global_load_dword v7, v0, s[4:5] offset:1536
  global_load_dword v8, v0, s[4:5] offset:1792
  s_waitcnt vmcnt(0)
  v_mov_b32_e32 v10, v7
  v_mov_b32_e32 v11, v8
  s_mov_b64 s[10:11], 0
"""
# Stores v10, v11, s10, s11 and scc.
EPILOGUE = """
  s_mov_b64 exec, -1
  s_cselect_b32 s12, 1, 0
  v_mov_b32_e32 v20, s10
  v_mov_b32_e32 v21, s11
  v_mov_b32_e32 v22, s12
  global_store_dword v0, v10, s[6:7]
  global_store_dword v0, v11, s[6:7] offset:256
  global_store_dword v0, v20, s[6:7] offset:512
  global_store_dword v0, v21, s[6:7] offset:768
  global_store_dword v0, v22, s[6:7] offset:1024
"""


class Wave:
    """What a wave of 64 lanes leaves behind: ``v10``, ``v11``, ``s[10:11]`` and scc."""

    def __init__(self, out: Words) -> None:
        self.v10, self.v11 = out[0], out[1]
        self.s10, self.s11, self.scc = (int(word) for word in out[2:5, 0])
        self.v10_11 = self.v10 | self.v11.astype(np.uint64) << np.uint64(32)
        self.s10_11 = self.s10 | self.s11 << 32


def kernels_of(instructions: Sequence[str], **sizes: int) -> Module:
    """A code object that runs each entry (lines or parts between semicolons) between prologue and epilogue."""
    return assemble(*(PROLOGUE + text.replace(";", "\n") + EPILOGUE for text in instructions), **sizes)


def execute(module: Module, index: int, inputs: Words) -> Wave:
    """Run kernel ``case_<index>`` of `kernels_of` on inputs ``[8, 64]``."""
    out = np.full((5, LANES), 0xDEADBEEF, np.uint32)
    module.launch(f"case_{index}", 1, LANES, np.ascontiguousarray(inputs), out)
    return Wave(out)


def run(
    body: str,
    inputs: Words,
    out: Words,
    *,
    waves: int = 1,
    order: Literal["forward", "backward"] = "forward",
    l1_bytes: int = 0,
    **sizes: int,
) -> Counters:
    """Run a whole kernel written in assembly, one workgroup of so many waves."""
    module = assemble(body, **sizes)
    return module.launch("case_0", 1, LANES * waves, inputs, out, waves=order, l1_bytes=l1_bytes)
