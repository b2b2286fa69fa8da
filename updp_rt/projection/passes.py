"""Torch's own passes on an MI100: the least time of each, by its bytes and FLOPs.

Each operator of torch's that runs a kernel is a pass of its own, as it is without a compiler. A pass takes at least

    max(bytes / HBM bandwidth, FLOPs / rate) + one memory latency

with every tensor that it reads and writes counted once, and the latency as in our kernels' projections. The rate is
that of the matrix units in the pass's dtype, by the data sheet; of the vector units for convolutions in groups, for
which gfx908 has no matrix kernels; arithmetic other than of contractions is not counted. Bandwidth is what kernels of
ours are projected with, too (`machine`): the one that was measured. It is a lower bound, and a generous one: real
kernels reach neither, depthwise convolutions in NHWC least of all (MIOpen runs a naive one), and copies between layouts
inside MIOpen are left out. What L2 would hold from one pass to the next is counted as moved, for our kernels as for
torch's. It flatters torch most where little is computed: our kernels' projections have all of their latency in them, a
bound one load's a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from updp_rt.ops import Problem
from updp_rt.projection.machine import MI100, Machine
from updp_rt.runtime.recording import Step, recorded
from updp_rt.runtime.roofline import SHEETS

_MATRIX_RATES = SHEETS["MI100"].flops


@dataclass(frozen=True)
class Pass:
    """One pass: what it is called, its FLOPs and bytes, and its least time in seconds."""

    name: str
    flops: int
    bytes: int
    seconds: float


@contextmanager
def as_on_gfx908() -> Iterator[None]:
    """Within it tensors hold nothing and nothing is computed, and attention runs as on gfx908: its MATH path.

    Scores then lie in memory, and half precision is computed in float32.

    Raises:
        ValueError: what runs in it depends on values.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"what this model runs depends on the values that it is given ({error.func}), so it cannot be projected; "
            "only models that run the same for all images can"
        ) from error


def torch_pass(step: Step, machine: Machine = MI100) -> Pass:
    """The pass that an operator of torch's own is."""
    count = flop_registry.get(step.function.overloadpacket)
    flops = 0 if count is None else count(*step.arguments, out_val=step.result)
    results = [leaf for leaf in tree_leaves(step.result) if isinstance(leaf, Tensor)]
    moved = _bytes(step.tensors()) + _bytes(results)
    return Pass(step.name, flops, moved, _least(moved, flops / _rate(step, machine) if flops else 0.0, machine))


def copy_pass(tensor: Tensor, machine: Machine = MI100) -> Pass:
    """The pass that lays `tensor` out in another way."""
    moved = 2 * _bytes([tensor])
    return Pass("copy", 0, moved, _least(moved, 0.0, machine))


def plain_passes(problem: Problem) -> list[Pass]:
    """The passes of a fused operator's plain meaning, for one that no kernel of ours runs."""
    operator = problem.operator

    def empty(shape: tuple[int, ...] | None) -> Tensor | None:
        return None if shape is None else operator.in_layout(torch.empty(shape, dtype=problem.dtype))

    with as_on_gfx908():
        inputs, weights = (tuple(map(empty, shapes)) for shapes in (problem.inputs, problem.weights))
        return passes_of(lambda: operator.plain(*operator.assemble(inputs, weights, problem.attributes)))


def passes_of(run: Callable[[], Any]) -> list[Pass]:
    """The passes of anything that torch runs; within `as_on_gfx908`."""
    with recorded() as steps:
        run()
    return [torch_pass(step) for step in steps]


def _least(moved: int, arithmetic: float, machine: Machine) -> float:
    return max(moved / machine.hbm_bandwidth, arithmetic) + machine.memory_latency / machine.clock


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of different tensors; what is expanded lies in memory once."""
    different = {id(tensor): tensor for tensor in tensors}
    return sum(
        math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride) * tensor.itemsize
        for tensor in different.values()
        if tensor.numel()
    )


def _rate(step: Step, machine: Machine) -> float:
    if step.name == "convolution" and step.arguments[-1] > 1:  # groups
        return machine.vector_flops
    return _MATRIX_RATES.get(step.tensors()[0].dtype, _MATRIX_RATES[torch.float32])
