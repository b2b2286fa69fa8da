"""The model that turns what a launch executes into a projected time. It was not compared with a card.

A launch has G workgroups, of which the busiest of the device's U compute units (CUs) runs n = ceil(G / U), at most r
at once: as many as registers, LDS and wave slots allow. Per workgroup, on average, from the emulator's counters:

    matrix    n * matrix_cycles / SIMDs                         a SIMD has one matrix unit
    vector    n * (vector_cycles + 4 * MFMA) / SIMDs            an MFMA takes the vector unit's turn to issue, too
    lds       n * lds_cycles / share                            bank conflicts are in lds_cycles
    l1        n * lines * cycles a line                         64-byte lines, each counted once an instruction
    l2        G * misses * 64 / L2 bandwidth                    see below
    memory    bytes / HBM bandwidth                             see below
    latency   ceil(n / r) * alone                               see below

    time      max of these (cycles over the clock) + one memory latency, in which nothing has come yet
    bound     which of them it is
    share     of the roofline: the data sheet's least time for the operator (`updp_rt.runtime.roofline`) over time

Resources overlap perfectly, as in any roofline, which errs towards fast: MFMA of one wave runs beside vector
instructions of another. The rest errs towards slow, where it could be helped: bandwidths are measured ones. In
particular,

- misses are lines stored, and lines loaded that L1 does not hold. A workgroup has its share of L1 for itself, an r-th,
  whatever it may find there of its neighbours';
- bytes are those of the operator, each tensor once, and for every further round of resident workgroups, of which there
  are ceil(G / (U * r)), the part of the weights beyond half of L2, which activations streaming by are taken to have
  evicted. Activations are read from memory once: workgroups that share them run side by side;
- alone is what a workgroup takes on an idle CU. A wave issues one instruction in 4 cycles, or an MFMA's own cycles;
  none overlap. It stalls for what its loads leave uncovered (`updp_rt.projection.stalls`).

Launching is not in the time. Power limits, DVFS, TLB misses, partition camping and instruction fetches are not in the
model at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

from updp_rt.kernels.hip.figures import occupancy
from updp_rt.projection.machine import MI100, Machine

if TYPE_CHECKING:
    from updp_rt.emulator import Counters

LINE = 64  # bytes
_SIMDS = 4  # of a CU
_GROUPS = 16  # workgroups of several waves that a CU holds at most


@dataclass(frozen=True)
class Work:
    """What a workgroup executes on average; the names are the emulator's (`updp_rt.emulator.Counters`)."""

    instructions: float
    vector: float
    matrix: float
    lds: float
    global_: float
    matrix_cycles: float
    vector_cycles: float
    lds_cycles: float
    lds_conflict_cycles: float
    global_lines: float
    l2_lines: float

    @classmethod
    def mean(cls, samples: Sequence[tuple[Counters, int]]) -> Self:
        """Of sampled workgroups; each sample counts as often as there are workgroups like it in the launch."""
        total = sum(weight for _, weight in samples)
        return cls(
            **{
                f.name: sum(getattr(counters, f.name) / counters.workgroups * weight for counters, weight in samples)
                / total
                for f in fields(cls)
            }
        )


@dataclass(frozen=True)
class Launch:
    """A kernel's launch.

    Attributes:
        workgroups: of the grid.
        waves: of a workgroup.
        vgprs, agprs: vector and accumulation registers a lane.
        sgprs: scalar registers a wave.
        lds: bytes a workgroup, static and dynamic.
        work: of a workgroup.
        stalls: cycles that a lone wave waits for its loads.
    """

    workgroups: int
    waves: int
    vgprs: int
    agprs: int
    sgprs: int
    lds: int
    work: Work
    stalls: float = 0.0

    @property
    def occupancy(self) -> float:
        """Waves that a SIMD holds at once; 0: none, the kernel cannot run."""
        return _occupancy(self.vgprs, self.agprs, self.sgprs, self.lds, self.waves)

    @property
    def resident(self) -> int:
        """Workgroups that a CU holds at once."""
        return resident_workgroups(self.vgprs, self.agprs, self.sgprs, self.lds, self.waves)


def resident_workgroups(vgprs: int, agprs: int, sgprs: int, lds: int, waves: int) -> int:
    """Workgroups that a CU holds at once; the arguments are `Launch`'s."""
    return min(_GROUPS, int(_occupancy(vgprs, agprs, sgprs, lds, waves) * _SIMDS / waves))


def _occupancy(vgprs: int, agprs: int, sgprs: int, lds: int, waves: int) -> float:
    return occupancy("gfx908", vgprs=vgprs, agprs=agprs, sgprs=sgprs, lds=lds, waves=waves)


@dataclass(frozen=True)
class Traffic:
    """What an operator moves between HBM and the chip: `bytes`, each tensor once, of which `weights` are weights."""

    bytes: int
    weights: int


@dataclass(frozen=True)
class Projection:
    """Times in seconds, projected, not measured.

    Attributes:
        time: of the kernel.
        bound: the resource it waits for: matrix, vector, lds, l1, l2, memory or latency.
        resources: the least time each resource allows.
        tail: share of the CUs' time that the last workgroups leave unused, from 0 (none).
    """

    time: float
    bound: str
    resources: dict[str, float] = field(repr=False)
    tail: float = 0.0


def project(launch: Launch, traffic: Traffic, machine: Machine = MI100) -> Projection:
    """Project a launch's time.

    Raises:
        ValueError: a workgroup needs more than a CU has.
    """
    if launch.resident == 0:
        raise ValueError(
            f"a workgroup of {launch.waves} waves, {launch.vgprs} + {launch.agprs} registers and {launch.lds} bytes of "
            "LDS does not fit a compute unit"
        )
    busiest = math.ceil(launch.workgroups / machine.compute_units)
    work = launch.work
    cycles = {
        "matrix": busiest * work.matrix_cycles / machine.simds,
        "vector": busiest * (work.vector_cycles + machine.issue_cycles * work.matrix) / machine.simds,
        "lds": busiest * work.lds_cycles / machine.lds_share,
        "l1": busiest * work.global_lines * machine.l1_line_cycles,
        "latency": math.ceil(busiest / launch.resident) * _alone(launch, machine),
    }
    resources = {name: count / machine.clock for name, count in cycles.items()}
    resources["l2"] = launch.workgroups * work.l2_lines * LINE / machine.l2_bandwidth
    resources["memory"] = _memory_bytes(launch, traffic, machine) / machine.hbm_bandwidth
    bound = max(resources, key=lambda name: resources[name])
    return Projection(
        time=resources[bound] + machine.memory_latency / machine.clock,
        bound=bound,
        resources=resources,
        tail=1 - launch.workgroups / (busiest * machine.compute_units),
    )


def _alone(launch: Launch, machine: Machine) -> float:
    """Cycles of a workgroup on an idle CU: those of one wave, which has a SIMD to itself or shares it with its like."""
    work = launch.work
    issue = machine.issue_cycles * (work.instructions - work.matrix) + work.matrix_cycles
    sharing = math.ceil(launch.waves / machine.simds)
    return issue / launch.waves * sharing + launch.stalls


def _memory_bytes(launch: Launch, traffic: Traffic, machine: Machine) -> float:
    rounds = math.ceil(launch.workgroups / (machine.compute_units * launch.resident))
    return traffic.bytes + (rounds - 1) * max(0, traffic.weights - machine.l2_bytes // 2)
