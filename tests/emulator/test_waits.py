"""The model of s_waitcnt: kernels that use a register too early fault, and the same with the wait run.

Each case is the text before its wait, the wait, and what then uses the register.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tests.emulator.assembly import LANES, run
from updp_rt.emulator import Fault

BEGIN = """
  s_load_dwordx4 s[4:7], s[0:1], 0x0
  v_lshlrev_b32_e32 v0, 2, v0
  v_mov_b32_e32 v9, 0
  v_mov_b32_e32 v1, 0
  s_waitcnt lgkmcnt(0)
  v_mov_b32_e32 v12, s4
  v_mov_b32_e32 v13, s5
"""


class Case(NamedTuple):
    before: str
    wait: str
    use: str
    complaint: str


LOAD = "global_load_dword v1, v0, s[4:5]"
CASES = {
    "vector load, read": Case(
        LOAD, "vmcnt(0)", "v_add_u32_e32 v2, v1, v1", r"uses v1 before global_load_dword v1.* vmcnt"
    ),
    "vector load, overwritten": Case(LOAD, "vmcnt(0)", "v_mov_b32_e32 v1, 0", "uses v1 before"),
    "vector load, stored": Case(LOAD, "vmcnt(0)", "global_store_dword v0, v1, s[6:7]", "uses v1 before"),
    "vector load, as an address": Case(LOAD, "vmcnt(0)", "v_mov_b32_e32 v1, 0\n  ds_read_b32 v2, v1", "uses v1"),
    "last of a wide load": Case(
        "global_load_dwordx4 v[1:4], v9, s[4:5]", "vmcnt(0)", "v_mov_b32_e32 v5, v4", "uses v4 before"
    ),
    "first of two loads": Case(
        f"{LOAD}\n  global_load_dword v2, v0, s[4:5]", "vmcnt(1)", "v_mov_b32_e32 v5, v1", "uses v1 before"
    ),
    "load behind a store": Case(
        f"global_store_dword v0, v9, s[6:7]\n  {LOAD}", "vmcnt(0)", "v_mov_b32_e32 v5, v1", "uses v1 before"
    ),
    "buffer load": Case(
        "s_mov_b32 s12, s4\n  s_mov_b32 s13, s5\n  s_mov_b32 s14, 256\n  s_mov_b32 s15, 0x27000\n"
        "  buffer_load_dword v1, v0, s[12:15], 0 offen",
        "vmcnt(0)",
        "v_mov_b32_e32 v5, v1",
        "uses v1 before buffer_load",
    ),
    "returning atomic": Case(
        "global_atomic_add v1, v[12:13], v9, off glc",
        "vmcnt(0)",
        "v_mov_b32_e32 v5, v1",
        "uses v1 before global_atomic",
    ),
    "scalar load": Case(
        "s_load_dword s8, s[4:5], 0x0", "lgkmcnt(0)", "s_add_u32 s9, s8, s8", "uses s8 before s_load_dword s8.* lgkmcnt"
    ),
    "scalar load, as a vector's operand": Case(
        "s_load_dwordx2 s[8:9], s[4:5], 0x0", "lgkmcnt(0)", "v_mov_b32_e32 v5, s9", "uses s9 before"
    ),
    "LDS read": Case(
        "ds_read_b32 v1, v9", "lgkmcnt(0)", "v_mov_b32_e32 v5, v1", "uses v1 before ds_read_b32.* lgkmcnt"
    ),
    "first of two LDS reads": Case(
        "ds_read_b32 v1, v9\n  ds_read_b32 v2, v9", "lgkmcnt(1)", "v_mov_b32_e32 v5, v1", "uses v1 before"
    ),
    "permutation": Case(
        "ds_bpermute_b32 v1, v9, v0", "lgkmcnt(0)", "v_mov_b32_e32 v5, v1", "uses v1 before ds_bpermute"
    ),
    "LDS atomic": Case("ds_add_rtn_u32 v1, v9, v9", "lgkmcnt(0)", "v_mov_b32_e32 v5, v1", "uses v1 before ds_add_rtn"),
    "accumulator": Case(LOAD, "vmcnt(0)", "v_accvgpr_write_b32 a0, v1", "uses v1 before"),
    "matrix operand": Case(
        "ds_read_b64 v[2:3], v9", "lgkmcnt(0)", "v_mfma_f32_4x4x4f16 a[0:3], v[2:3], v[2:3], a[0:3]", "uses v2 before"
    ),
    "flat load, by vmcnt": Case(
        "flat_load_dword v1, v[12:13]", "vmcnt(0) lgkmcnt(0)", "v_mov_b32_e32 v5, v1", "uses v1 before flat_load"
    ),
    "barrier before LDS is written": Case(
        "ds_write_b32 v0, v9", "lgkmcnt(0)", "s_barrier", "ds_write_b32 v0, v9 at pc .* has not been waited for"
    ),
}


def execute(*lines: str) -> None:
    words = np.zeros(LANES, np.uint32)
    run(BEGIN + "".join(f"  {line}\n" for line in lines), words, words.copy())


@pytest.mark.parametrize("name", CASES)
def test_missing_wait_faults(name: str):
    case = CASES[name]
    with pytest.raises(Fault, match=case.complaint):
        execute(case.before, case.use)


@pytest.mark.parametrize("name", CASES)
def test_with_its_wait_it_runs(name: str):
    case = CASES[name]
    execute(case.before, f"s_waitcnt {case.wait}", case.use)


TOO_WEAK = {
    "one of one": (LOAD, "vmcnt(1)", "v1"),
    "the other counter": (LOAD, "lgkmcnt(0)", "v1"),
    "scalar loads complete in any order": (
        "s_load_dword s8, s[4:5], 0x0\n  s_load_dword s9, s[4:5], 0x0",
        "lgkmcnt(1)",
        "s8",
    ),
    "a scalar load spoils LDS's order": ("ds_read_b32 v1, v9\n  s_load_dword s8, s[4:5], 0x0", "lgkmcnt(1)", "v1"),
    "flat counts as both: vmcnt alone": ("flat_load_dword v1, v[12:13]", "vmcnt(0)", "v1"),
    "flat counts as both: lgkmcnt alone": ("flat_load_dword v1, v[12:13]", "lgkmcnt(0)", "v1"),
    "flat spoils vmcnt's order": (f"{LOAD}\n  flat_load_dword v2, v[12:13]", "vmcnt(1)", "v1"),
}


@pytest.mark.parametrize("name", TOO_WEAK)
def test_too_weak_a_wait_faults(name: str):
    before, wait, register = TOO_WEAK[name]
    with pytest.raises(Fault, match=f"uses {register} before"):
        execute(before, f"s_waitcnt {wait}", f"v_mov_b32_e32 v5, {register}")


def test_weaker_wait_suffices_where_loads_complete_in_order():
    execute(LOAD, "global_store_dword v0, v9, s[6:7]", "s_waitcnt vmcnt(1)", "v_mov_b32_e32 v5, v1")
    execute("ds_read_b32 v1, v9", "ds_write_b32 v0, v9", "s_waitcnt lgkmcnt(1)", "v_mov_b32_e32 v5, v1")


def test_a_later_load_may_overwrite_an_earlier_ones_register():
    execute(LOAD, LOAD, "s_waitcnt vmcnt(0)", "v_mov_b32_e32 v5, v1")
    with pytest.raises(Fault, match="uses v1 before"):
        execute(LOAD, LOAD, "s_waitcnt vmcnt(1)", "v_mov_b32_e32 v5, v1")
    with pytest.raises(Fault, match="uses v1 before"):
        execute(LOAD, "ds_read_b32 v1, v9")


def test_the_fault_names_the_place():
    with pytest.raises(
        Fault, match=r"case_0: workgroup 0, wave 0, pc 0x[0-9a-f]+: v_mov_b32_e32 v5, v1: uses v1 before"
    ):
        execute(LOAD, "v_mov_b32_e32 v5, v1")


NEIGHBOUR = """
  s_load_dwordx4 s[4:7], s[0:1], 0x0
  v_lshlrev_b32_e32 v1, 2, v0
  v_xor_b32_e32 v2, 64, v0
  v_lshlrev_b32_e32 v2, 2, v2
  ds_write_b32 v1, v0
  s_waitcnt lgkmcnt(0)
  {barrier}
  ds_read_b32 v3, v2
  s_waitcnt lgkmcnt(0)
  global_store_dword v1, v3, s[6:7]
"""


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_a_missing_barrier_shows(order: str):
    lanes = np.arange(2 * LANES, dtype=np.uint32)
    out = np.zeros_like(lanes)
    run(NEIGHBOUR.format(barrier="s_barrier"), lanes, out, waves=2, order=order)
    assert np.array_equal(out, lanes ^ 64)
    run(NEIGHBOUR.format(barrier=""), lanes, out, waves=2, order=order)
    first = slice(LANES, None) if order == "backward" else slice(LANES)
    assert np.all(out[first] == 0xFFFFFFFF)  # LDS as it begins
