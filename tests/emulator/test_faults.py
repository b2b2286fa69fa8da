"""What a kernel must not do raises Fault, which says where and what."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.assembly import LANES, assemble, run
from updp_rt.emulator import CodeObjectError, Fault, Module

BEGIN = """
  s_load_dwordx4 s[4:7], s[0:1], 0x0
  v_lshlrev_b32_e32 v1, 2, v0
  s_waitcnt lgkmcnt(0)
"""


def words(count: int = LANES) -> np.ndarray:
    return np.zeros(count, np.uint32)


def faults(body: str, match: str, *, size: int = LANES, **sizes: int) -> None:
    with pytest.raises(Fault, match=match):
        run(BEGIN + body, words(size), words(size), **sizes)


def test_says_where_and_what():
    faults(
        "global_load_dword v2, v1, s[4:5]",
        r"case_0: workgroup 0, wave 0, pc 0x[0-9a-f]+, lane 60: global_load_dword v2, v1, s\[4:5\]: "
        r"reads 4 bytes at 0x[0-9a-f]+, 0 bytes past the end of argument 1 \(in\)",
        size=60,
    )


@pytest.mark.parametrize(
    ("instruction", "match"),
    [
        (
            "global_store_dword v1, v0, s[6:7] offset:4",
            r"lane 63: .*writes 4 bytes at .*past the end of argument 2 \(out\)",
        ),
        ("global_load_dwordx4 v[4:7], v1, s[4:5]", r"lane 61: .*reads 16 bytes at .*, 4 of them past the end of"),
        ("global_load_dword v2, v1, s[4:5] offset:-4", r"lane 0: .*4 bytes before the begin of"),
        ("global_store_dword v1, v0, s[0:1]", r"lane 0: .*in the argument segment, which is read-only"),
        ("global_atomic_add v1, v0, s[6:7] offset:16", r"lane 60: .*writes 4 bytes"),
        ("s_load_dwordx4 s[8:11], s[4:5], 0xf8", r"wave 0, pc 0x[0-9a-f]+: s_load_dwordx4 .*reads 16 bytes"),
        (
            "v_mov_b32_e32 v2, 0\nv_mov_b32_e32 v3, 0\nglobal_load_dword v4, v[2:3], off",
            "far from all memory of the launch",
        ),
        ("ds_read_b32 v2, v1 offset:960", r"lane 16: .*accesses 4 bytes of LDS at 0x400; the workgroup has 1024"),
        ("ds_write_b64 v1, v[2:3] offset:800", r"lane 55: .*accesses 8 bytes of LDS at 0x3fc"),
        ("scratch_store_dword v1, v0, off", r"lane 4: .*accesses 4 bytes of private memory at 0x10; a lane has 16"),
        (
            "s_mov_b64 exec, 1\nv_add_u32_e32 v1, 2, v1\nglobal_atomic_add v1, v0, s[6:7]",
            "the address of an atomic is not aligned",
        ),
        # v_mfma_f32_32x32x2f32 a[0:15], v0, v0, a[4:19]: assemblers refuse it too.
        (".long 0xd3c40000, 0x04120100", "the accumulator partly overlaps the result"),
        ("s_trap 2", "the kernel trapped"),
        (".long 0xffffffff", "<unknown>: the instruction is not known"),
        ("s_mov_b64 s[8:9], 0\ns_setpc_b64 s[8:9]", "where no instruction of the code object begins"),
        ("loop:\ns_branch loop", "executed more than 1000 instructions"),
    ],
)
def test_refuses(instruction: str, match: str):
    module = assemble(BEGIN + instruction, scratch=16)
    with pytest.raises(Fault, match=match):
        module.launch("case_0", 1, LANES, words(), words(), max_instructions=1000)


def test_unknown_instructions_fault_only_when_executed():
    run(BEGIN + "s_branch over\n.long 0xffffffff\nover:", words(), words())


def test_memory_that_is_not_writable():
    inputs = words()
    inputs.flags.writeable = False
    with pytest.raises(Fault, match=r"argument 1 \(in\), which is read-only"):
        run(BEGIN + "global_store_dword v1, v0, s[4:5]", inputs, words())


def test_inactive_lanes_access_nothing():
    run(BEGIN + "s_mov_b64 exec, 1\nglobal_load_dword v2, v1, s[4:5]", words(1), words(1))


def test_buffers_check_their_range():
    """Loads beyond a buffer's end give 0, stores do nothing."""
    buffer = """
      s_mov_b32 s8, s4
      s_mov_b32 s9, s5
      s_mov_b32 s10, 128
      s_mov_b32 s11, 0x27000
      buffer_load_dword v2, v1, s[8:11], 0 offen
      s_waitcnt vmcnt(0)
      global_store_dword v1, v2, s[6:7]
      buffer_store_dword v0, v1, s[8:11], 0 offen
    """
    inputs, out = np.arange(100, 164, dtype=np.uint32), words()
    run(BEGIN + buffer, inputs, out)
    assert np.array_equal(out, np.r_[100:132, np.zeros(32, int)])
    assert np.array_equal(inputs, np.r_[0:32, 132:164])


def test_a_fault_in_one_of_many_workgroups():
    body = BEGIN + "s_lshl_b32 s8, s2, 8\nv_add_u32_e32 v1, s8, v1\nglobal_store_dword v1, v0, s[6:7]"
    module, out = assemble(body), words(7 * LANES)
    for order in ("forward", "backward", "shuffled"):
        with pytest.raises(Fault, match="workgroup 7, wave 0"):
            module.launch("case_0", 8, LANES, words(), out, workgroups=order, seed=3, threads=2)  # type: ignore[arg-type]
    module.launch("case_0", 8, LANES, words(), out, workgroup_count=7)
    assert np.array_equal(out, np.tile(np.arange(LANES), 7))


def test_refuses_a_launch_that_the_hardware_would():
    module = assemble(BEGIN)
    with pytest.raises(Fault, match="a workgroup of 1025 lanes; it can have 1 to 1024"):
        module.launch("case_0", 1, 1025, words(), words())
    with pytest.raises(Fault, match="65540 bytes of LDS; a workgroup can have 65536"):
        module.launch("case_0", 1, 64, words(), words(), dynamic_lds=65540 - 1024)


def test_refuses_what_is_no_code_object():
    with pytest.raises(CodeObjectError):
        Module(b"not an ELF file")
