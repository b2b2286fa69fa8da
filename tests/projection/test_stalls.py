"""What a lone wave stalls, on texts short enough to time by hand: 4 cycles an instruction, 800 memory, 128 LDS."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from updp_rt.projection.stalls import innermost_loops, stall_cycles

MFMA = 64.0


class Instruction(NamedTuple):
    address: int
    size: int
    mnemonic: str
    operands: str


def text(*lines: str) -> list[Instruction]:
    """Instructions of four bytes each; ``back N`` is a branch to the Nth."""
    instructions = []
    for index, line in enumerate(lines):
        mnemonic, _, operands = line.partition(" ")
        if mnemonic == "back":
            mnemonic, operands = "s_cbranch_scc1", str((int(operands) - index - 1) % 65536)
        instructions.append(Instruction(4 * index, 4, mnemonic, operands))
    return instructions


LOAD, WAIT = "buffer_load_dwordx4 v[0:3]", "s_waitcnt vmcnt(0)"
LDS, LDS_WAIT = "ds_read_b128 v[0:3]", "s_waitcnt lgkmcnt(0)"
MULTIPLY = "v_mfma_f32_32x32x8f16 a[0:15]"


def stalls(*lines: str, matrix: float = 0, memory: float = 0) -> float:
    return stall_cycles(text(*lines), matrix, memory, MFMA)


def test_a_load_that_is_awaited_at_once_stalls_for_its_latency() -> None:
    # The wait itself issues in 4 of the 800 cycles.
    assert stalls(LOAD, WAIT) == 796


def test_loads_side_by_side_stall_once() -> None:
    assert stalls(LOAD, LOAD, LOAD, WAIT) == 796


def test_waiting_for_some_stalls_for_the_oldest() -> None:
    assert stalls(LOAD, LOAD, "s_waitcnt vmcnt(1)") == 792


def test_lds_has_its_own_latency_and_counter() -> None:
    assert stalls(LOAD, LDS, LDS_WAIT) == 124


def test_both_counters_in_one_wait() -> None:
    assert stalls(LDS, LOAD, "s_waitcnt vmcnt(0) lgkmcnt(0)") == 796


def test_work_between_load_and_wait_covers_it() -> None:
    assert stalls(LOAD, *["v_add_f32 v0"] * 100, WAIT) == 396
    assert stalls(LOAD, *[MULTIPLY] * 20, WAIT) == 0


def test_a_loop_stalls_every_time_round() -> None:
    assert stalls(LOAD, WAIT, MULTIPLY, "back 0", matrix=6, memory=6) == 6 * 796


def test_a_loop_that_loads_ahead_covers_its_latency() -> None:
    multiply = [MULTIPLY] * 16  # 1024 cycles
    assert stalls(LOAD, WAIT, LOAD, *multiply, WAIT, "back 2", matrix=96, memory=7) == 0
    assert stalls(LOAD, WAIT, LOAD, *multiply[:4], WAIT, "back 2", matrix=24, memory=7) == 6 * (796 - 256)


def test_loops_without_mfma_run_as_often_as_their_loads_tell() -> None:
    lines = (LOAD, WAIT, "back 0", LOAD, WAIT, MULTIPLY, "back 3")
    assert stalls(*lines, matrix=5, memory=5 + 3) == (5 + 3) * 796


def test_only_innermost_loops_are_read() -> None:
    nest = text("s_nop 0", MULTIPLY, "back 1", "back 0", "s_branch 65535", "s_cbranch_scc0 1", "s_endpgm")
    assert [[line.address for line in loop] for loop in innermost_loops(nest)] == [[4, 8], [16]]


@pytest.mark.parametrize("branch", ["s_cbranch_scc1 65533", "s_cbranch_scc1 0xfffd", "s_branch -3"])
def test_branches_as_assemblers_write_them(branch: str) -> None:
    (loop,) = innermost_loops(text(LOAD, WAIT, branch))
    assert len(loop) == 3
