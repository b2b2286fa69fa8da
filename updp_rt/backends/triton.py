"""The project's Triton kernels, one source for ROCm and CUDA; on the CPU only under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch

from updp_rt.backends.base import Backend, Prepared
from updp_rt.backends.fused import lacks_kernel, prepare_fused
from updp_rt.ops import Problem, Weights
from updp_rt.ops.problem import contiguous_biases


class TritonBackend(Backend):
    """Fused kernels with the tiles that `updp_rt.kernels.triton` has for the GPU; each tile is a candidate.

    On AMD's GPUs a launch that a kernel compiled ahead fits (`updp_rt.backends.ahead`) compiles nothing.
    """

    name = "triton"
    sources = (
        "ops/*.py",
        "backends/base.py",
        "backends/fused.py",
        "backends/triton.py",
        "kernels/hip/device.py",
        "kernels/hip/objects.py",
        "kernels/*.py",
        "kernels/triton/*.py",
    )

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if problem.device == "cpu" and not interpreted and not _runs_on_emulation():
            return False, "Triton kernels run on GPUs"
        if interpreted and problem.dtype == torch.bfloat16:
            return False, "Triton's interpreter computes bfloat16 products wrongly"
        reason = lacks_kernel(problem)
        return reason is None, reason or ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        from updp_rt.kernels.triton import tiles

        return tuple(tile.name for tile in tiles(problem.operator.name, _arch(problem), problem.dtype))

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        from updp_rt.kernels import triton

        chosen = triton.tile(problem.operator.name, _arch(problem), problem.dtype, config)
        return prepare_fused(triton, problem, contiguous_biases(weights), chosen)


def _arch(problem: Problem) -> str:
    from updp_rt.kernels.architecture import architecture
    from updp_rt.kernels.hip.device import emulation

    emulated = emulation() if problem.device == "cpu" else None
    return architecture(torch.device(problem.device)) if emulated is None else emulated.arch


def _runs_on_emulation() -> bool:
    """Whether a GPU is emulated, and its kernels were compiled ahead: for it, none can be compiled."""
    from updp_rt.kernels.hip.device import emulation

    device = emulation()
    if device is None:
        return False
    from updp_rt.kernels.triton.objects import carried

    return bool(carried(device.arch))
