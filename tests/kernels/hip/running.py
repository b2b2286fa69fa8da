"""Runs HIP's kernels on an emulated MI100."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.kernels.poison import poison_fresh_memory
from tests.kernels.problems import Problem, called
from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@cache
def _emulated(*, backward: bool) -> hip.EmulatedMI100:
    """One device for all: each would read the code objects again."""
    return hip.EmulatedMI100(backward=backward)


def run(problem: Problem, kernel: HipKernel, *, backward: bool = False) -> Tensor:
    """Call the operator as on a device, biases in float32 as the kernels take them.

    Args:
        backward: run a workgroup's waves from the last to the first, and workgroups in random order: what then differs
            lacks a barrier.
    """
    operands = [o.float() if isinstance(o, Tensor) and o.dim() == 1 else o for o in problem.fresh_operands()]
    with pytest.MonkeyPatch.context() as patch, hip.emulated_mi100(_emulated(backward=backward)):
        poison_fresh_memory(patch)
        return called(hip, problem.operator, operands, kernel)
