"""How long a lone wave waits for its loads, from the order in which it issues them and waits for them.

The emulator counts what is executed, but has no clock. This goes through the instructions that a wave executed as if
nothing ran beside it: an instruction takes 4 cycles to issue, an MFMA its own; data come a latency after their load;
``s_waitcnt`` stands still until enough have come. A kernel that asks for the next step's operands before it multiplies
this step's has those cycles covered; one that asks and waits at once has not.

Innermost loops are gone through twice, and the second time counts as often as they ran: the first has nothing
outstanding yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from updp_rt.projection.machine import MI100, Machine

if TYPE_CHECKING:
    from updp_rt.emulator import Instruction

_WAIT = re.compile(r"(vmcnt|lgkmcnt)\((\d+)\)")


def stall_cycles(
    text: Sequence[Instruction], executions: Mapping[int, float], mfma_cycles: float, machine: Machine = MI100
) -> float:
    """Cycles that a lone wave stalls.

    Args:
        text: of the kernel.
        executions: how often a wave executed the instruction at an address, on average; not those it never met.
        mfma_cycles: of one MFMA, on average.
    """
    executed = [instruction for instruction in text if instruction.address in executions]
    wave = _Wave(mfma_cycles, machine)
    stalled = 0.0
    for passage, is_loop in _passages(executed, executions):
        if is_loop:
            wave.run(passage)
        stalled += sum(cycles * executions[address] for address, cycles in wave.run(passage))
    return stalled


def _passages(
    text: Sequence[Instruction], executions: Mapping[int, float]
) -> Iterator[tuple[Sequence[Instruction], bool]]:
    """`text` cut into its innermost loops and what lies between them; whether each is a loop."""
    done = 0
    for begin, end in _innermost_loops(text, executions):
        yield text[done:begin], False
        yield text[begin:end], True
        done = end
    yield text[done:], False


def _innermost_loops(text: Sequence[Instruction], executions: Mapping[int, float]) -> list[tuple[int, int]]:
    """First and one past the last instruction of loops that hold no other: where a branch back was taken."""
    places = {instruction.address: place for place, instruction in enumerate(text)}
    loops: list[tuple[int, int]] = []
    for place, branch in enumerate(text):
        if not branch.mnemonic.startswith(("s_branch", "s_cbranch")):
            continue
        begin = places.get(_target(branch), len(text))
        # A block that is entered once was only placed before what jumps to it. A loop that begins before the last
        # one's end holds it, or jumps into it.
        repeats = begin <= place and executions[text[begin].address] > 1
        if repeats and (not loops or begin >= loops[-1][1]):
            loops.append((begin, place + 1))
    return loops


class _Wave:
    """A wave on an idle CU."""

    def __init__(self, mfma_cycles: float, machine: Machine) -> None:
        self._mfma_cycles, self._machine = mfma_cycles, machine
        self._now = 0.0
        self._outstanding: dict[str, list[float]] = {"vmcnt": [], "lgkmcnt": []}  # when each comes

    def run(self, text: Sequence[Instruction]) -> list[tuple[int, float]]:
        """Go through `text`; address and cycles of each stall."""
        return [(instruction.address, stall) for instruction in text if (stall := self._step(instruction))]

    def _step(self, instruction: Instruction) -> float:
        name, machine = instruction.mnemonic, self._machine
        self._now += self._mfma_cycles if name.startswith("v_mfma_") else machine.issue_cycles
        if name.startswith(("global_", "buffer_", "flat_")):
            self._outstanding["vmcnt"].append(self._now + machine.memory_latency)
        elif name.startswith("ds_"):
            self._outstanding["lgkmcnt"].append(self._now + machine.lds_latency)
        elif name.startswith(("s_load", "s_buffer_load")):
            self._outstanding["lgkmcnt"].append(self._now + machine.memory_latency)
        elif name == "s_waitcnt":
            waits = _WAIT.findall(instruction.operands)
            return sum(self._wait(self._outstanding[kind], int(allowed)) for kind, allowed in waits)
        return 0.0

    def _wait(self, outstanding: list[float], allowed: int) -> float:
        before = self._now
        while len(outstanding) > allowed:
            self._now = max(self._now, outstanding.pop(0))
        return self._now - before


def _target(branch: Instruction) -> int:
    words = int(branch.operands.split()[0], 0)
    return branch.address + branch.size + 4 * (words - 65536 if words >= 32768 else words)
