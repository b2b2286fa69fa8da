"""Every kernel that could run a problem on an MI100, projected: HIP's and Triton's tiles for gfx908 side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from updp_rt.backends import BACKENDS
from updp_rt.backends.fused import lacks_kernel, prepare_fused, triton_tiles
from updp_rt.ops import ImageOperator, Problem, Weights
from updp_rt.projection.model import Launch, Projection, Traffic, project
from updp_rt.projection.sampling import sampled_hip, sampled_triton
from updp_rt.runtime.roofline import SHEETS

LANGUAGES = ("hip", "triton")
_SHEET = SHEETS["MI100"]
# Of operands, in bytes. Torch aligns to 512 on a GPU; with 4096 no set of the L1 modelled depends on where memory lies.
_ALIGNMENT = 4096


@dataclass(frozen=True)
class Candidate:
    """A kernel for a problem.

    Attributes:
        name: ``hip:128x64x32w4`` or ``triton:64x64x32w4s2``, as dispatch calls it.
        share: of the roofline.
    """

    name: str
    launch: Launch
    projection: Projection
    share: float

    @property
    def lds_per_mfma(self) -> float | None:
        """LDS instructions executed for each MFMA; None of a kernel without MFMA."""
        return self.launch.work.lds / self.launch.work.matrix if self.launch.work.matrix else None

    @property
    def global_per_mfma(self) -> float | None:
        """Global memory instructions executed for each MFMA; None of a kernel without MFMA."""
        return self.launch.work.global_ / self.launch.work.matrix if self.launch.work.matrix else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is ``executed`` is of the whole launch."""
        return {
            "kernel": self.name,
            "ms": self.projection.time * 1e3,
            "share": self.share,
            "bound": self.projection.bound,
            "resources_ms": {name: seconds * 1e3 for name, seconds in self.projection.resources.items()},
            "workgroups": self.launch.workgroups,
            "tail": self.projection.tail,
            "occupancy": self.launch.occupancy,
            "lds_per_mfma": self.lds_per_mfma,
            "global_per_mfma": self.global_per_mfma,
            "executed": {name: round(n * self.launch.workgroups) for name, n in asdict(self.launch.work).items()},
        }


def candidates(problem: Problem, languages: Sequence[str] = LANGUAGES) -> list[Candidate]:
    """Project `problem` with every tile of `languages`, fastest first.

    Args:
        problem: one that `refusal` does not refuse; its device does not matter.

    Raises:
        MissingObjectsError: HIP's kernels are not compiled for gfx908.
    """
    problem = replace(problem, device="cpu")
    found = [candidate for language in languages for candidate in _OF[language](problem)]
    return sorted(found, key=lambda candidate: candidate.projection.time)


def least_seconds(problem: Problem) -> float:
    """The roofline's time of `problem` by the MI100's data sheet."""
    return _SHEET.least_seconds(problem)


def refusal(problem: Problem) -> str | None:
    """Why `problem` has no kernel to project; None: it has."""
    return lacks_kernel(problem)


def _hip(problem: Problem) -> Iterator[Candidate]:
    backend = BACKENDS["hip"]
    inputs, weights = _operands(problem)
    with sampled_hip() as launches:
        for config in backend.configs(problem):
            backend.prepare(problem, weights, config)(*inputs)
            yield _candidate(f"hip:{config}", problem, launches.pop())


def _triton(problem: Problem) -> Iterator[Candidate]:
    from updp_rt.kernels import triton

    inputs, weights = _operands(problem)
    operator = problem.operator.name
    for tile in triton_tiles(problem, "gfx908"):
        with sampled_triton(operator, tile) as launches:
            prepare_fused(triton, problem, weights, tile)(*inputs)
        yield _candidate(f"triton:{tile.name}", problem, launches.pop())


_OF = {"hip": _hip, "triton": _triton}


def _candidate(name: str, problem: Problem, launch: Launch) -> Candidate:
    weights = sum(math.prod(shape) for shape in problem.weights if shape is not None)
    projection = project(launch, Traffic(problem.bytes_moved, weights * problem.dtype.itemsize))
    return Candidate(name, launch, projection, least_seconds(problem) / projection.time)


def _operands(problem: Problem) -> tuple[tuple[Tensor | None, ...], Weights]:
    """Tensors of the problem's shapes: zeros whose memory is never touched, and biases."""

    def zeros(shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape) * problem.dtype.itemsize
        untouched = torch.from_numpy(np.zeros(size + _ALIGNMENT, np.uint8))
        start = -untouched.data_ptr() % _ALIGNMENT
        return untouched[start : start + size].view(problem.dtype).view(shape)

    def activation(shape: tuple[int, ...]) -> Tensor:
        if not isinstance(problem.operator, ImageOperator):
            return zeros(shape)
        batch, channels, height, width = shape
        return zeros((batch, height, width, channels)).permute(0, 3, 1, 2)

    def weight(shape: tuple[int, ...]) -> Tensor:
        # From -4 to 4 and again, so that any workgroup meets all cases of an activation.
        return zeros(shape) if len(shape) > 1 else (torch.arange(shape[0]) % 17 / 2 - 4).to(problem.dtype)

    inputs = tuple(None if shape is None else activation(shape) for shape in problem.inputs)
    return inputs, tuple(None if shape is None else weight(shape) for shape in problem.weights)
