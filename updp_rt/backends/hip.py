"""The project's HIP kernels, compiled ahead of time, on AMD's and NVIDIA's GPUs; on a CPU where one is emulated."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

import torch

from updp_rt.backends.base import Backend, Prepared
from updp_rt.backends.fused import fits, lacks_kernel, placed, prepare_fused
from updp_rt.ops import CONV2D_MAX_POOL, INVERTED_RESIDUAL, MLP, Problem, Weights

if TYPE_CHECKING:
    from updp_rt.kernels.hip import HipKernel


class HipBackend(Backend):
    """Fused kernels from the code objects built for the GPU; each tile is a candidate."""

    name = "hip"
    sources = (
        "ops/*.py",
        "backends/base.py",
        "backends/fused.py",
        "backends/hip.py",
        "kernels/*.py",
        "kernels/checks/*.py",
        "kernels/hip/*.py",
        "kernels/hip/*.h",
        "kernels/hip/*.hip",
    )

    def supports(self, problem: Problem) -> tuple[bool, str]:
        from updp_rt.kernels.hip import MissingObjectsError

        reason = lacks_kernel(problem)
        if reason is not None:
            return False, reason
        if importlib.util.find_spec("updp_rt._launcher") is None:
            return False, "the launcher is not built (pip install -e . builds it)"
        try:
            fitting = _kernels(problem)
        except (ValueError, MissingObjectsError) as error:
            return False, str(error)
        return (True, "") if fitting else (False, "no kernel for these sizes among the code objects")

    def configs(self, problem: Problem) -> tuple[str, ...]:
        return tuple(kernel.tile for kernel in _kernels(problem))

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        from updp_rt.kernels import hip

        chosen = next(kernel for kernel in _kernels(problem) if kernel.tile == config)
        hip.device_of(torch.device(problem.device)).loaded(chosen)  # now, since nothing loads while a graph is captured
        unit = _unit(problem) if chosen.aligned else 1
        weights = tuple(w if w is None or w.dim() != 1 else placed(w.float().contiguous(), unit) for w in weights)
        return prepare_fused(hip, problem, weights, chosen, unit)


def _kernels(problem: Problem) -> tuple[HipKernel, ...]:
    """Those built for the device that take these sizes, from small tiles to large."""
    from updp_rt.kernels.hip import device_of, inverted_residual_kernels, mlp_kernels

    objects = device_of(torch.device(problem.device)).objects
    channels = [s[1 if len(s) == 4 else -1] for s in (*problem.inputs, problem.output) if s is not None]
    if problem.operator is CONV2D_MAX_POOL:  # which takes whole rows of an image of few channels
        channels[0] *= problem.x[3]
    found = objects.kernels(problem.operator.name, problem.dtype, math.gcd(*channels) % _unit(problem) == 0)
    if problem.operator is MLP:
        return mlp_kernels(found, problem.x[1], problem.output[1])
    if problem.operator is INVERTED_RESIDUAL:
        height, width = problem.shape("w_dw")[2:]
        sizes = (problem.x[1], problem.output[1], (height, width))
        return inverted_residual_kernels(found, *sizes, problem["stride"], problem["padding"])
    return tuple(kernel for kernel in found if fits(problem, kernel.block))


def _unit(problem: Problem) -> int:
    """Elements in the 16 bytes that aligned kernels move at once."""
    return 16 // problem.dtype.itemsize
