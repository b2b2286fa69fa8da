"""How fast a device could be at most: its peak arithmetic and memory bandwidth, and the least time a problem takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from updp_rt._timing import time_side_by_side
from updp_rt.backends import BACKENDS
from updp_rt.ops import LINEAR, Problem


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s by dtype, bytes/s of memory, exponentials/s; from the maker's data sheet, or measured here."""

    flops: dict[torch.dtype, float]
    bandwidth: float
    source: str
    exponentials: float = math.inf

    def least_seconds(self, problem: Problem) -> float:
        """The roofline's time of `problem`: the longest of its products, exponentials and traffic, each at peak."""
        flops = self.flops.get(problem.dtype, self.flops[torch.float32])
        return max(
            problem.flops / flops, problem.bytes_moved / self.bandwidth, problem.exponentials / self.exponentials
        )


def _sheet(fp32: float, fp16: float, bf16: float, bandwidth: float, units: int, clock: float) -> Peak:
    flops = {torch.float32: fp32 * 1e12, torch.float16: fp16 * 1e12, torch.bfloat16: bf16 * 1e12}
    return Peak(flops, bandwidth * 1e12, "data sheet", units * _EXPONENTIALS * clock * 1e9)


# Of a compute unit or SM in a cycle. AMD (GCN3 and CDNA instruction set guides): four SIMDs of 16 lanes take
# transcendental functions at a quarter of their rate, v_exp_f32 16 cycles for a wave of 64. NVIDIA (CUDA programming
# guide, throughput of native arithmetic instructions): 16 results.
_EXPONENTIALS = 16

# Dense TFLOP/s of the matrix units (float32: what IEEE arithmetic reaches), TB/s, compute units or SMs, GHz.
SHEETS = {
    "MI100": _sheet(46.1, 184.6, 92.3, 1.23, 120, 1.502),
    "MI210": _sheet(45.3, 181.0, 181.0, 1.6, 104, 1.7),
    "MI250": _sheet(45.3, 181.0, 181.0, 1.6, 104, 1.7),  # one of its two dies, which torch shows as a device
    "MI300X": _sheet(163.4, 1307.4, 1307.4, 5.3, 304, 2.1),
    "A100": _sheet(19.5, 312.0, 312.0, 2.0, 108, 1.41),
    "H100": _sheet(67.0, 989.0, 989.0, 3.35, 132, 1.98),
    "H200": _sheet(67.0, 989.0, 989.0, 4.8, 132, 1.98),
}


@cache
def peak(device: torch.device) -> Peak:
    """The peak of `device`: from the table for GPUs it knows, else measured by a large product and a large copy."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, sheet in SHEETS.items():
            if known in name:
                return sheet
    return _measured(device)


@torch.inference_mode()
def _measured(device: torch.device) -> Peak:
    size = 1024
    matrix = (size, size)
    calls: dict[str, Callable[[], Tensor]] = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a, b = (torch.randn(matrix, device=device).to(dtype) for _ in range(2))
        problem = Problem.make(LINEAR, dtype, device.type, x=matrix, weight=matrix, act="none")
        # The fastest there is: on some processors the BLAS that torch calls is far from it.
        best = BACKENDS["onednn" if BACKENDS["onednn"].supports(problem)[0] else "reference"]
        calls[str(dtype)] = partial(best.prepare(problem, (b, None), best.configs(problem)[0]), a, None)
    source = torch.randn(32 << 20, device=device)  # 128 MB, beyond the caches
    target = torch.empty_like(source)
    calls["copy"] = partial(target.copy_, source)
    times = time_side_by_side(calls, rounds=5, device=device)
    flops = {dtype: 2 * size**3 / times[str(dtype)] for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    return Peak(flops, 2 * source.numel() * source.itemsize / times["copy"], "measured")
