"""Which problems a model meets at a batch size, found by lowering it and running one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from updp_rt.ops import Problem
from updp_rt.runtime.explanation import explain
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.lowering import accelerate


def model_problems(
    model: nn.Module, image: Tensor, batch: int, dtype: torch.dtype
) -> tuple[Mapping[Problem, int], Mapping[str, int]]:
    """The problems that `model` meets at a batch size, and its modules that are not fused by kind, each with its count.

    The model is lowered and run once, on one image: a batch of `batch` images multiplies the first size of each input.
    """
    fast = accelerate(model, image, backends=("reference",))
    problems: Counter[Problem] = Counter()
    for _, _, fusion in fused_modules(fast):
        for site in fusion.sites.values():
            for problem in (choice.problem for choice in site.choices.values()):
                inputs = tuple(None if s is None else (s[0] * batch, *s[1:]) for s in problem.inputs)
                problems[replace(problem, inputs=inputs, dtype=dtype)] += 1
    unfused = Counter(name.rsplit("(", 1)[1].rstrip(")") for name in explain(fast).unfused)
    return problems, unfused
