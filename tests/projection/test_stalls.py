"""What a lone wave stalls, on texts short enough to time by hand: 4 cycles an instruction, 800 memory, 128 LDS."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from updp_rt.projection.stalls import stall_cycles

MFMA = 64.0
LOAD, WAIT = "buffer_load_dword v0", "s_waitcnt vmcnt(0)"
LDS, LDS_WAIT = "ds_read_b32 v0", "s_waitcnt lgkmcnt(0)"
MULTIPLY = "v_mfma_f32_32x32x8f16 a0"


class Instruction(NamedTuple):
    address: int
    size: int
    mnemonic: str
    operands: str


def stalls(*lines: str) -> float:
    """Of instructions of four bytes each; ``back N`` is a branch to the Nth, ``6:`` before one how often it ran."""
    text, executions = [], {}
    for index, line in enumerate(lines):
        times, _, rest = line.rpartition(": ")
        mnemonic, _, operands = rest.partition(" ")
        if mnemonic == "back":
            mnemonic, operands = "s_cbranch_scc1", str((int(operands) - index - 1) % 65536)
        text.append(Instruction(4 * index, 4, mnemonic, operands))
        if times != "0":
            executions[4 * index] = float(times or 1)
    return stall_cycles(text, executions, MFMA)


def often(times: int, *lines: str) -> list[str]:
    return [f"{times}: {line}" for line in lines]


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


def test_scalar_loads_come_from_memory() -> None:
    assert stalls("s_load_dword s0", LDS_WAIT) == 796


def test_work_between_load_and_wait_covers_it() -> None:
    assert stalls(LOAD, *["v_add_f32 v0"] * 100, WAIT) == 396
    assert stalls(LOAD, *[MULTIPLY] * 20, WAIT) == 0


def test_a_loop_stalls_every_time_round() -> None:
    assert stalls(*often(6, LOAD, WAIT, MULTIPLY, "back 0")) == 6 * 796


def test_a_loop_that_loads_ahead_covers_its_latency() -> None:
    multiply = [MULTIPLY] * 16  # 1024 cycles
    assert stalls(LOAD, WAIT, *often(6, LOAD, *multiply, WAIT, "back 2")) == 796
    assert stalls(LOAD, WAIT, *often(6, LOAD, *multiply[:4], WAIT, "back 2")) == 796 + 6 * (796 - 256)


def test_a_loop_meets_what_its_last_round_left_outstanding() -> None:
    # Each round waits for the load before its own: an MFMA and four instructions have passed since.
    assert stalls(*often(6, LOAD, "s_waitcnt vmcnt(1)", MULTIPLY, "back 0")) == 6 * (800 - 64 - 4 * 4)


def test_text_that_was_not_executed_takes_no_part() -> None:
    assert stalls(LOAD, *often(0, WAIT, LOAD, WAIT), WAIT) == 796


def test_a_branch_back_to_what_ran_once_is_no_loop() -> None:
    assert stalls(LOAD, WAIT, LOAD, "back 2", WAIT) == stalls(LOAD, WAIT, LOAD, "s_nop 0", WAIT)


def test_outer_loops_count_as_often_as_they_ran() -> None:
    assert stalls(*often(3, LOAD, WAIT), *often(12, LOAD, WAIT, "back 2"), *often(3, "back 0")) == (3 + 12) * 796


@pytest.mark.parametrize("branch", ["s_cbranch_scc1 65533", "s_cbranch_scc1 0xfffd", "s_branch -3"])
def test_branches_as_assemblers_write_them(branch: str) -> None:
    # As a loop the first wait finds the last round's load outstanding; as plain text it would find none.
    assert stalls(*often(2, WAIT, LOAD, branch)) == 2 * (800 - 2 * 4)
