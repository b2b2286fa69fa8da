"""The project's Triton kernels, one source for ROCm and CUDA; on the CPU only under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch

from updp_rt.backends.base import Backend, Kernel
from updp_rt.backends.fused import prepare_fused
from updp_rt.backends.problem import Problem, Weights, contiguous_biases


class TritonBackend(Backend):
    """Fused kernels with the tiles that `updp_rt.kernels.triton` has for the GPU; each tile is a candidate."""

    name = "triton"

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if problem.device == "cpu" and not interpreted:
            return False, "Triton kernels run on GPUs"
        if interpreted and problem.dtype == torch.bfloat16:
            return False, "Triton's interpreter computes bfloat16 products wrongly"
        if problem.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return False, f"no kernel for {problem.dtype}"
        if problem.operator == "attention" or (problem.operator == "conv2d" and problem.geometry.groups != 1):
            return False, "grouped convolutions and attention have no Triton kernel"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        from updp_rt.kernels.triton import architecture, tiles

        arch = architecture(torch.device(problem.device))
        return tuple(tile.name for tile in tiles(problem.operator, arch, problem.dtype))

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        from updp_rt.kernels import triton
        from updp_rt.kernels.triton import architecture, tile

        arch = architecture(torch.device(problem.device))
        chosen = tile(problem.operator, arch, problem.dtype, config)
        return prepare_fused(triton, problem, contiguous_biases(weights), chosen)
