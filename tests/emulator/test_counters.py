"""What a launch counts of its memory accesses: bytes, lines, caches, LDS cycles and bank conflicts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.assembly import LANES, run
from updp_rt.emulator import Counters

LANE = np.arange(LANES)
U32, U64 = np.uint32, np.uint64


def counted(body: str, size: int = 4096, **options: int) -> Counters:
    data = np.zeros(size // 4 + 16, U32)
    aligned = data[-data.ctypes.data % 64 // 4 :]  # on a line of 64 bytes
    begin = "s_load_dwordx4 s[4:7], s[0:1], 0x0\nv_lshlrev_b32_e32 v1, 2, v0\ns_waitcnt lgkmcnt(0)\n"
    return run(begin + body.replace(";", "\n"), aligned, aligned, lds=16384, **options)


@pytest.mark.parametrize(
    ("body", "loaded", "lines"),
    [
        ("global_load_dword v2, v1, s[4:5]", 256, 4),
        ("global_load_dword v2, v1, s[4:5] offset:4", 256, 5),
        ("v_lshlrev_b32 v1, 4, v0; global_load_dwordx4 v[4:7], v1, s[4:5]", 1024, 16),
        ("v_mov_b32 v1, 0; global_load_dword v2, v1, s[4:5]", 256, 1),
        ("v_lshlrev_b32 v1, 6, v0; global_load_dword v2, v1, s[4:5]", 256, 64),
        ("v_xor_b32 v1, 0x40, v1; global_load_dword v2, v1, s[4:5]", 256, 4),
        ("s_mov_b64 exec, 0xff; global_load_dword v2, v1, s[4:5]", 32, 1),
        ("s_mov_b64 exec, 0; global_load_dword v2, v1, s[4:5]", 0, 0),
    ],
)
def test_counts_lines(body: str, loaded: int, lines: int):
    counters = counted(body)
    assert (counters.global_loaded_bytes, counters.global_lines) == (loaded, lines)
    assert counters.global_stored_bytes == 0


@pytest.mark.parametrize(
    ("body", "cycles", "conflicts"),
    [
        ("ds_read_b32 v2, v1", 2, 0),
        ("v_mov_b32 v1, 0; ds_read_b32 v2, v1", 2, 0),  # one word for all: a broadcast
        ("v_lshlrev_b32 v1, 3, v0; ds_read_b32 v2, v1", 4, 2),  # every other bank
        ("v_lshlrev_b32 v1, 7, v0; ds_read_b32 v2, v1", 64, 62),  # one bank
        ("v_mul_u32_u24 v1, 0x84, v0; ds_read_b32 v2, v1", 2, 0),  # rows padded by a word
        ("v_lshlrev_b32 v1, 3, v0; ds_read_b64 v[2:3], v1", 4, 0),
        ("v_lshlrev_b32 v1, 4, v0; ds_read_b128 v[4:7], v1", 8, 0),
        ("v_lshlrev_b32 v1, 5, v0; ds_read_b128 v[4:7], v1", 16, 8),
        ("v_and_b32 v1, 15, v0; v_lshlrev_b32 v1, 4, v1; ds_read_b128 v[4:7], v1", 8, 0),  # 16 lanes at a time
        ("v_and_b32 v1, 15, v0; v_lshlrev_b32 v1, 3, v1; ds_read_b64 v[4:5], v1", 2, 0),  # 32 lanes at a time
        ("v_lshlrev_b32 v1, 3, v0; ds_read2_b32 v[2:3], v1 offset1:1", 8, 4),
        ("s_mov_b64 exec, 1; ds_read_b32 v2, v1", 1, 0),
        ("v_lshlrev_b32 v1, 1, v0; ds_write_b16 v1, v0", 2, 0),
    ],
)
def test_counts_bank_conflicts(body: str, cycles: int, conflicts: int):
    counters = counted(body)
    assert (counters.lds_cycles, counters.lds_conflict_cycles) == (cycles, conflicts)


def test_counts_instructions_by_kind():
    counters = counted(
        "s_barrier; v_add_f32 v2, v1, v1; v_exp_f32 v2, v2; v_mul_lo_u32 v2, v1, v1; v_add_f64 v[4:5], v[4:5], v[4:5];"
        "ds_write_b32 v1, v2; s_waitcnt lgkmcnt(0); global_store_dwordx2 v1, v[2:3], s[6:7]"
    )
    assert (counters.waves, counters.workgroups, counters.instructions) == (1, 1, 12)
    assert (counters.scalar, counters.vector, counters.lds, counters.global_) == (1, 5, 1, 1)
    assert (counters.scalar_memory, counters.barriers, counters.waits) == (1, 1, 2)
    assert counters.vector_cycles == 4 + 4 + 16 + 16 + 8
    assert counters.global_stored_bytes == 512
    assert counters.lds_bytes == 256


LOAD = "global_load_dword v2, v1, s[4:5];"
FAR = "global_load_dword v3, v1, s[4:5] offset:1024;"  # 16 lines further on


@pytest.mark.parametrize(
    ("body", "l1_bytes", "lines"),
    [
        (LOAD + LOAD, 0, 8),  # none is modelled
        (LOAD + LOAD, 16384, 4),
        (LOAD + FAR + LOAD, 16384, 8),
        (LOAD + FAR * 3 + LOAD, 1024, 8),  # 4 sets of 4 ways: both have a place in each
        (LOAD + "v_lshlrev_b32 v1, 6, v0; global_load_dword v3, v1, s[4:5]; v_lshlrev_b32 v1, 2, v0;" + LOAD, 1024, 68),
        (LOAD + LOAD, 256, 4),  # one set, four ways
        (LOAD + "s_waitcnt vmcnt(0); global_store_dword v1, v2, s[4:5]", 16384, 8),  # stores go through
    ],
)
def test_counts_lines_that_the_first_level_cache_lacks(body: str, l1_bytes: int, lines: int):
    assert counted(body, l1_bytes=l1_bytes).l2_lines == lines
