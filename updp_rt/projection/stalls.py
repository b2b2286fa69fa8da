"""How long a lone wave waits for its loads, from the order in which its code issues them and waits for them.

The emulator counts what is executed, but has no clock. This reads the innermost loops of a kernel's text as one wave
would run them with nothing beside it: an instruction takes 4 cycles to issue, an MFMA its own; data come a latency
after their load; ``s_waitcnt`` stands still until enough have come. A kernel that asks for the next step's operands
before it multiplies this step's has those cycles covered; one that asks and waits at once has not.

How often a loop runs is told by the counters: by its MFMA, or else by its global memory instructions. Text outside
loops is only read where there is no loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from updp_rt.projection.machine import MI100, Machine

if TYPE_CHECKING:
    from updp_rt.emulator import Instruction

_WAIT = re.compile(r"(vmcnt|lgkmcnt)\((\d+)\)")
_GLOBAL = ("global_", "buffer_", "flat_")


@dataclass(frozen=True)
class Passage:
    """Some text once through: stalled cycles, and how many MFMA and global memory instructions it has."""

    stalls: float
    matrix: int
    memory: int


def stall_cycles(
    text: Sequence[Instruction], matrix: float, memory: float, mfma_cycles: float, machine: Machine = MI100
) -> float:
    """Cycles that a lone wave stalls.

    Args:
        text: of the kernel.
        matrix, memory: MFMA and global memory instructions that a wave executes.
        mfma_cycles: of one MFMA, on average.
    """
    loops = [_passage(loop, mfma_cycles, machine, warm=True) for loop in innermost_loops(text)]
    if not loops:
        return _passage(text, mfma_cycles, machine, warm=False).stalls
    multiplying = [loop for loop in loops if loop.matrix]
    others = [loop for loop in loops if not loop.matrix and loop.memory]
    trips = _ratio(matrix, sum(loop.matrix for loop in multiplying))
    rest = memory - trips * sum(loop.memory for loop in multiplying)
    other_trips = _ratio(rest, sum(loop.memory for loop in others))
    return trips * sum(loop.stalls for loop in multiplying) + other_trips * sum(loop.stalls for loop in others)


def innermost_loops(text: Sequence[Instruction]) -> Iterator[list[Instruction]]:
    """The bodies of loops that hold no other: from the target of a backward branch to the branch."""
    spans = []
    for instruction in text:
        if instruction.mnemonic.startswith(("s_branch", "s_cbranch")):
            target = _target(instruction)
            if target <= instruction.address:
                spans.append((target, instruction.address))
    for begin, end in spans:
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in spans):
            yield [instruction for instruction in text if begin <= instruction.address <= end]


def _passage(text: Sequence[Instruction], mfma_cycles: float, machine: Machine, *, warm: bool) -> Passage:
    """`warm`: as the second time round, with what the first left outstanding."""
    wave = _Wave(mfma_cycles, machine)
    before = wave.run(text) if warm else 0.0
    return Passage(
        stalls=wave.run(text) - before if warm else wave.run(text),
        matrix=sum(i.mnemonic.startswith("v_mfma_") for i in text),
        memory=sum(i.mnemonic.startswith(_GLOBAL) for i in text),
    )


class _Wave:
    """A wave on an idle CU."""

    def __init__(self, mfma_cycles: float, machine: Machine) -> None:
        self._mfma_cycles, self._machine = mfma_cycles, machine
        self._now = self._stalled = 0.0
        self._outstanding: dict[str, list[float]] = {"vmcnt": [], "lgkmcnt": []}  # when each comes

    def run(self, text: Sequence[Instruction]) -> float:
        """Go through `text` once more; the cycles stalled so far."""
        for instruction in text:
            self._step(instruction)
        return self._stalled

    def _step(self, instruction: Instruction) -> None:
        name, machine = instruction.mnemonic, self._machine
        self._now += self._mfma_cycles if name.startswith("v_mfma_") else machine.issue_cycles
        if name.startswith(_GLOBAL):
            self._outstanding["vmcnt"].append(self._now + machine.memory_latency)
        elif name.startswith("ds_"):
            self._outstanding["lgkmcnt"].append(self._now + machine.lds_latency)
        elif name.startswith(("s_load", "s_buffer_load")):
            self._outstanding["lgkmcnt"].append(self._now + machine.memory_latency)
        elif name == "s_waitcnt":
            for kind, allowed in _WAIT.findall(instruction.operands):
                self._wait(self._outstanding[kind], int(allowed))

    def _wait(self, outstanding: list[float], allowed: int) -> None:
        while len(outstanding) > allowed:
            late = outstanding.pop(0) - self._now
            if late > 0:
                self._now += late
                self._stalled += late


def _target(branch: Instruction) -> int:
    words = int(branch.operands.split()[0], 0)
    return branch.address + branch.size + 4 * (words - 65536 if words >= 32768 else words)


def _ratio(count: float, of: float) -> float:
    return max(0.0, count) / of if of else 0.0
