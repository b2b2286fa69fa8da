"""What a model runs on an MI100 at a batch size: the problems of its fused operators, and torch's passes that are left.

Found by lowering it as for gfx908 and running it on tensors that hold nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from updp_rt._copies import copy_model
from updp_rt.kernels.hip import emulated_mi100
from updp_rt.kernels.hip.device import Device
from updp_rt.ops import Problem
from updp_rt.projection.passes import Pass, as_on_gfx908, copy_pass, passes_of, torch_pass
from updp_rt.runtime.lowering import accelerate
from updp_rt.runtime.recording import recorded, why_copied, why_left

Images = tuple[int, int, int]  # channels, height, width


@dataclass
class Run:
    """What one run of a model is made of, each with the path of the module that it runs in.

    Attributes:
        problems: of the fused operators, in order.
        left: passes of torch's own between them, and why each is left.
    """

    problems: list[tuple[str, Problem]] = field(default_factory=list)
    left: list[tuple[str, Pass, str]] = field(default_factory=list)


def run_of(model: nn.Module, size: Images, batch: int, dtype: torch.dtype) -> Run:
    """What `model` runs accelerated on gfx908, for a batch of `batch` images of `size` in channels_last.

    Args:
        model: in eval mode, on the CPU. It is left as it is.
    """
    run = Run()
    with emulated_mi100(Device("gfx908", "hip")):
        fast = accelerate(copy_model(model).to(dtype), [], inplace=True, backends=("reference",))
        with as_on_gfx908():
            images = _images(size, batch, dtype)
            with recorded(fast) as steps:
                fast(images)
            for step in steps:
                if step.operator is None:
                    run.left.append((step.place, torch_pass(step), why_left(fast, step.place)))
                    continue
                run.left += [(step.place, copy_pass(x), why_copied(step.operator)) for x in step.copied()]
                run.problems.append((step.place, step.problem()))
    return run


def unfused_passes(model: nn.Module, size: Images, batch: int, dtype: torch.dtype) -> list[Pass]:
    """Torch's passes for `model` as it is, in channels_last, where it copies least."""
    plain: Any = copy_model(model).to(dtype)
    plain.to(memory_format=torch.channels_last)
    with as_on_gfx908():
        images = _images(size, batch, dtype)
        return passes_of(lambda: plain(images))


def model_problems(model: nn.Module, size: Images, batch: int, dtype: torch.dtype) -> Mapping[Problem, int]:
    """The problems that `model` meets at a batch size on gfx908, each with its count."""
    return Counter(problem for _, problem in run_of(model, size, batch, dtype).problems)


def _images(size: Images, batch: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(batch, *size, dtype=dtype).to(memory_format=torch.channels_last)
