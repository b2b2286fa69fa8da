"""The MI100's numbers as the projection's model takes them, each with where it is from.

Bandwidths are what AMD's own roofline benchmark reached on one MI100 (ROCm/rocm-amdgpu-bench, issue 4: HBM 1041 GB/s,
L2 2530, L1 8190.8, LDS 21578.6), not what the data sheet allows: projections use the lower number where there are two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What limits a kernel.

    Attributes:
        compute_units, simds: of the device, and of a compute unit (CU).
        clock: cycles a second; assumed to be held under load.
        hbm_bandwidth, l2_bandwidth: bytes a second, of the device.
        l1_bytes, l2_bytes: what a CU's L1 and the device's L2 hold.
        l1_line_cycles: a CU's cycles for one line of 64 bytes from or to its L1.
        lds_share: of a CU's LDS's 128 bytes a cycle, what is reached.
        memory_latency: cycles from a load to its data, when neither L1 nor L2 helps.
        lds_latency: cycles from an LDS instruction to its data.
        issue_cycles: of a SIMD, for one instruction of one wave.
        launch_seconds: of the host, for one launch; reported beside a kernel's time, never in it.
        vector_flops: multiplications and additions a second of the vector units in float32.
    """

    compute_units: int
    simds: int
    clock: float
    hbm_bandwidth: float
    l2_bandwidth: float
    l1_bytes: int
    l2_bytes: int
    l1_line_cycles: float
    lds_share: float
    memory_latency: int
    lds_latency: int
    issue_cycles: int
    launch_seconds: float
    vector_flops: float


_UNITS, _CLOCK = 120, 1.502e9  # AMD's data sheet: compute units, peak engine clock

MI100 = Machine(
    compute_units=_UNITS,
    simds=4,  # CDNA1 instruction set guide, section 1: a SIMD runs a wave's 64 lanes in four cycles
    clock=_CLOCK,
    hbm_bandwidth=1.041e12,  # measured; 85% of the data sheet's 1.2288e12
    l2_bandwidth=2.530e12,  # measured; 82% of 32 channels (AMD's profiler manual) of 64 bytes a cycle
    l1_bytes=16
    << 10,  # AMD's GCN white paper, which also has the 4 ways, lines of 64 bytes and LRU of the emulator's L1
    l2_bytes=8 << 20,  # data sheet
    l1_line_cycles=64 * _UNITS * _CLOCK / 8.1908e12,  # measured; 1.41, the profiler's peak is 1
    lds_share=2.15786e13 / (128 * _UNITS * _CLOCK),  # measured; 0.93
    # Assumed: no latencies of an MI100 were found published. Of gfx9, about 500 from L2 and 800 from HBM are usual.
    memory_latency=800,
    lds_latency=128,  # assumed: 64 on an idle LDS, twice that on a busy one
    issue_cycles=4,
    launch_seconds=6e-6,  # assumed
    vector_flops=2 * 64 * _UNITS * _CLOCK,  # data sheet: 23.1e12
)
