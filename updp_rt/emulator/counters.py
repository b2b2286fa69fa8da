"""What a launch executed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """What a launch executed, summed over its waves.

    Attributes:
        waves, workgroups: how many ran.
        instructions: of all waves, each counted once per wave.
        scalar, vector, matrix, lds, global_, scalar_memory, barriers, waits: the same, by kind.
        matrix_cycles: cycles of a SIMD's matrix unit.
        matrix_flops: multiplications and additions of matrix instructions.
        vector_cycles: 4 per instruction on 64 lanes, more for transcendental and 64-bit ones.
        lds_bytes: moved to and from LDS by active lanes.
        lds_cycles: of a compute unit's LDS, which moves 128 bytes per cycle, bank conflicts included.
        lds_conflict_cycles: those above the fewest the accesses could take.
        global_loaded_bytes, global_stored_bytes: asked for by active lanes.
        global_lines: 64-byte lines touched, each counted once per instruction.
        l2_lines: of these, lines stored to, and lines loaded that an L1 of the launch's ``l1_bytes`` did not hold.
    """

    waves: int
    workgroups: int
    instructions: int
    scalar: int
    vector: int
    matrix: int
    lds: int
    global_: int
    scalar_memory: int
    barriers: int
    waits: int
    matrix_cycles: int
    matrix_flops: int
    vector_cycles: int
    lds_bytes: int
    lds_cycles: int
    lds_conflict_cycles: int
    global_loaded_bytes: int
    global_stored_bytes: int
    global_lines: int
    l2_lines: int

    @classmethod
    def of(cls, counts: dict[str, int]) -> Counters:
        """From the core's names, of which one is a keyword here."""
        return cls(**{"global_" if name == "global" else name: count for name, count in counts.items()})
