"""The project's Triton kernels, one source for ROCm and CUDA; on the CPU only under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch

from updp_rt.backends.base import Backend, Prepared
from updp_rt.backends.fused import has_triton_kernel, lacks_kernel, prepare_fused, triton_tiles
from updp_rt.ops import Problem, Weights
from updp_rt.ops.problem import contiguous_biases


class TritonBackend(Backend):
    """Fused kernels with the tiles that `updp_rt.kernels.triton` has for the GPU; each tile is a candidate.

    On AMD's GPUs a launch that a kernel compiled ahead fits (`updp_rt.backends.ahead`) compiles nothing.
    """

    name = "triton"
    sources = (
        "ops/*.py",
        "backends/ahead.py",
        "backends/base.py",
        "backends/frozen.py",
        "backends/fused.py",
        "backends/triton.py",
        "kernels/hip/device.py",
        "kernels/hip/objects.py",
        "kernels/*.py",
        "kernels/checks/*.py",
        "kernels/triton/*.py",
    )

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if problem.device == "cpu" and not interpreted and _emulated(problem) is None:
            return False, "Triton kernels run on GPUs"
        if interpreted and problem.dtype == torch.bfloat16:
            return False, "Triton's interpreter computes bfloat16 products wrongly"
        reason = lacks_kernel(problem)
        if reason is None and not has_triton_kernel(problem):
            reason = f"{problem.operator.name} has no kernel in Triton"
        if reason is None and _emulated(problem) is not None and not self.configs(problem):
            reason = "no kernel compiled ahead fits, and nothing compiles for an emulated GPU"
        return reason is None, reason or ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        from updp_rt.backends.ahead import fits

        arch = _arch(problem)
        found = triton_tiles(problem, arch)
        if _emulated(problem) is not None:
            found = tuple(tile for tile in found if fits(problem, tile, arch))
        return tuple(tile.name for tile in found)

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        from updp_rt.kernels import triton

        chosen = triton.tile(problem.operator.name, _arch(problem), problem.dtype, config)
        return prepare_fused(triton, problem, contiguous_biases(weights), chosen)


def _arch(problem: Problem) -> str:
    from updp_rt.kernels.architecture import architecture

    return _emulated(problem) or architecture(torch.device(problem.device))


def _emulated(problem: Problem) -> str | None:
    """The architecture of the GPU that is emulated for this problem, for which nothing is compiled."""
    from updp_rt.kernels.hip.device import emulation

    device = emulation() if problem.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1" else None
    return None if device is None else device.arch
