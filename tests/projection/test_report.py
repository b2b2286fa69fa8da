"""What a whole model's report adds up: the plan of each operator, and what torch runs beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from updp_rt.ops import ATTENTION, LINEAR, MLP, Problem
from updp_rt.projection.passes import plain_passes
from updp_rt.projection.report import Kernels

BLOCK = Problem.make(MLP, torch.float16, x=(64, 32), w1=(128, 32), w2=(32, 128), residual=True, act="gelu", eps=0.0)


class Timed(Kernels):
    """Every kernel of an operator takes the seconds given; others have none."""

    def __init__(self, **seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def __call__(self, problem: Problem) -> list[Any]:
        found = self._seconds.get(problem.operator.name)
        return [] if found is None else [SimpleNamespace(projection=SimpleNamespace(time=found))]


@pytest.mark.parametrize(("mlp", "whole"), [(0.9, True), (1.1, False), (None, False)])
def test_a_whole_block_runs_as_one_where_that_is_faster(mlp: float | None, whole: bool) -> None:
    kernels = Timed(linear=0.5, **({} if mlp is None else {"mlp": mlp}))
    plan = kernels.plan(BLOCK)
    assert [problem.operator for problem in plan] == ([MLP] if whole else [LINEAR, LINEAR])
    assert [problem.residual for problem in plan] == ([True] if whole else [False, True])
    assert kernels.seconds(BLOCK) == (0.9 if whole else 1.0)


def test_what_has_no_kernel_counts_as_torchs_passes() -> None:
    problem = Problem.make(ATTENTION, torch.float16, qkv=(2, 50, 96), heads=1)
    assert Timed().seconds(problem) == sum(one.seconds for one in plain_passes(problem))
