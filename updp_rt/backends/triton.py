"""The project's Triton kernels, one source for ROCm and CUDA; on the CPU only under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from updp_rt.backends.base import Backend, Kernel
from updp_rt.backends.problem import Problem, Weights


class TritonBackend(Backend):
    """Fused kernels with tiles from the tables of `updp_rt.kernels.triton`."""

    name = "triton"

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if problem.operator == "attention":
            return False, "there is no Triton kernel for attention"
        if importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if problem.device == "cpu" and not interpreted:
            return False, "Triton kernels run on GPUs"
        if interpreted and problem.dtype == torch.bfloat16:
            return False, "Triton's interpreter computes bfloat16 products wrongly"
        if problem.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return False, f"no kernel for {problem.dtype}"
        if problem.operator == "conv2d" and problem.geometry.groups != 1:
            return False, "grouped convolutions have no Triton kernel"
        return True, ""

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        raise NotImplementedError
