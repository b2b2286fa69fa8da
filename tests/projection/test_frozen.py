"""What the HIP kernels have to reach at batch 128, as the model projects it; never measured on a card."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from benchmarks.problems import PROJECTED_BATCH, projected_problems, square
from benchmarks.suites.projection import BOUND
from updp_rt.ops import AVERAGE_POOL, DEPTHWISE_CONV2D, LAYER_NORM, MAX_POOL, Problem, RowOperator
from updp_rt.projection.candidates import Candidate, candidates, least_seconds
from updp_rt.projection.report import Kernels

# MobileNetV2's other operators are not held to the bound.
MOBILE = [p for p in projected_problems(models=("mobilenetv2_100",)) if p.operator is DEPTHWISE_CONV2D]
FROZEN = [*projected_problems(), *MOBILE]
STREAMED = (DEPTHWISE_CONV2D, MAX_POOL, AVERAGE_POOL, LAYER_NORM)  # in Triton without a matrix instruction

# Problems for which neither a HIP kernel nor the separate operators that the problem stands for are projected to reach
# the bound yet, and the share that they must keep. One that reaches the bound has to leave this list.
SHORT = {
    # Matrix units: 197 tokens are computed as 224 keys of up to 256 queries.
    "attention 128x197x576 h3 bfloat16 cpu": 0.64,
    # One pass reaches 48% and 40%, L2: every 56 pixels read the whole 1x1 weight. These are in two.
    "depthwise_pointwise 128x384x14x14 384x1x7x7 384x384x1x1 residual gelu s1x1 p3x3 float16 cpu": 0.49,
    "depthwise_pointwise 128x768x7x7 768x1x7x7 768x768x1x1 residual gelu s1x1 p3x3 float16 cpu": 0.60,
    # Latency: few workgroups, and twice the matrix instructions of float16.
    "depthwise_conv2d 128x384x14x14 384x1x7x7 s1x1 p3x3 bfloat16 cpu": 0.57,
    "depthwise_conv2d 128x768x7x7 768x1x7x7 s1x1 p3x3 bfloat16 cpu": 0.56,
    # Issuing: a compute unit holds two workgroups, and GELU and the norm are as much work as the product.
    "norm_linear 25216x192 768x192 e1e-06 gelu float16 cpu": 0.64,
}
KERNELS = Kernels(("hip",))


@cache
def best(problem: Problem, language: str) -> Candidate:
    found = KERNELS(problem) if language == "hip" else candidates(problem, (language,))
    assert found, f"{language} has no kernel"
    return found[0]


@pytest.mark.parametrize("problem", FROZEN, ids=lambda problem: problem.key.replace(" ", "-"))
def test_the_best_hip_kernel_nears_the_roofline(problem: Problem) -> None:
    found = best(problem, "hip")
    share = least_seconds(problem) / KERNELS.seconds(problem)
    if problem.x[0] == PROJECTED_BATCH and isinstance(problem.operator, RowOperator):
        # A classifier, or its norm: their few rows take less time at the roofline than a kernel's loads need to come.
        assert found.projection.bound == "latency"
    elif problem.key in SHORT:
        assert SHORT[problem.key] <= share < BOUND, (found.name, found.projection.resources)
    else:
        assert share >= BOUND, (found.name, found.projection.resources)


def test_the_problems_that_fall_short_are_frozen_ones() -> None:
    assert SHORT.keys() <= {problem.key for problem in FROZEN}


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [p for p in FROZEN if p.dtype is torch.float16 and p.operator not in STREAMED],
    ids=lambda p: p.key.replace(" ", "-"),
)
def test_the_best_hip_kernel_asks_no_more_of_lds_and_memory_than_tritons(problem: Problem) -> None:
    hip, triton = best(problem, "hip"), best(problem, "triton")
    for ratio in ("lds_per_mfma", "global_per_mfma"):
        assert getattr(hip, ratio) <= getattr(triton, ratio), (ratio, hip.name, triton.name)


@pytest.mark.parametrize(("size", "measured"), [(1024, 39e12), (1920, 80e12), (2176, 72e12)])
def test_triton_projects_no_slower_and_not_far_faster_than_users_measured(size: int, measured: float) -> None:
    problem = square(size)
    projected = problem.flops / best(problem, "triton").projection.time
    assert measured <= projected <= 1.6 * measured
