"""The least times of torch's passes: their bytes and FLOPs counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops import ATTENTION, Problem
from updp_rt.projection.machine import MI100
from updp_rt.projection.passes import Pass, as_on_gfx908, passes_of, plain_passes
from updp_rt.runtime.roofline import SHEETS

HALF, FULL = torch.float16, torch.float32
RATE = SHEETS["MI100"].flops
LATENCY = MI100.memory_latency / MI100.clock


def empty(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def only(passes: list[Pass]) -> Pass:
    (one,) = passes
    return one


def test_a_large_product_takes_its_flops_at_the_matrix_rate_of_its_dtype() -> None:
    with as_on_gfx908():
        for dtype in (HALF, torch.bfloat16, FULL):
            one = only(passes_of(lambda dtype=dtype: empty(4096, 4096, dtype=dtype) @ empty(4096, 4096, dtype=dtype)))
            assert one.flops == 2 * 4096**3
            assert one.seconds == one.flops / RATE[dtype] + LATENCY


def test_what_is_memorys_takes_each_tensor_once() -> None:
    with as_on_gfx908():
        x, y = empty(8, 64, 56, 56), empty(64, 1, 1)
        added, doubled, in_place = (
            only(passes_of(run)) for run in (lambda: x + y, lambda: x + x, lambda: F.relu(x, inplace=True))
        )
    size = 2 * x.numel()
    assert added.bytes == 2 * size + 2 * 64
    assert doubled.bytes == 2 * size
    assert in_place.bytes == 2 * size
    assert added.seconds == added.bytes / MI100.hbm_bandwidth + LATENCY


def test_what_is_expanded_is_read_where_it_lies() -> None:
    with as_on_gfx908():
        x = empty(1, 1, 64).expand(32, 100, 64)
        assert only(passes_of(x.clone)).bytes == 2 * (64 + 32 * 100 * 64)


def test_what_reads_nothing_only_writes() -> None:
    with as_on_gfx908():
        assert only(passes_of(lambda: torch.ones(64, 64))).bytes == 4 * 64 * 64


def test_what_depends_on_values_is_refused() -> None:
    with pytest.raises(ValueError, match="depends on the values"), as_on_gfx908():
        passes_of(lambda: 1 if empty(3).sum() > 0 else 2)


def test_views_are_no_passes() -> None:
    with as_on_gfx908():
        x = empty(4, 6, 8)
        assert passes_of(lambda: x.view(24, 8).t().unsqueeze(0)) == []
        assert [one.name for one in passes_of(lambda: x.transpose(1, 2).reshape(4, 48))] == ["clone"]


def test_a_convolution_in_groups_has_the_vector_units_alone() -> None:
    with as_on_gfx908():
        x = empty(4, 32, 28, 28).to(memory_format=torch.channels_last)
        grouped, dense = (
            only(passes_of(lambda w=w, g=g: F.conv2d(x, w, None, 1, 3, 1, g)))
            for w, g in ((empty(2048, 1, 7, 7), 32), (empty(2048, 32, 7, 7), 1))
        )
    assert grouped.flops == 2 * 4 * 2048 * 28 * 28 * 49
    assert dense.flops == 32 * grouped.flops
    assert grouped.seconds == LATENCY + max(grouped.flops / MI100.vector_flops, grouped.bytes / MI100.hbm_bandwidth)
    assert dense.seconds == LATENCY + max(dense.flops / RATE[HALF], dense.bytes / MI100.hbm_bandwidth)
    assert grouped.flops / grouped.seconds < dense.flops / dense.seconds / 4


def test_attention_runs_in_float32_with_its_scores_in_memory() -> None:
    problem = Problem.make(ATTENTION, HALF, qkv=(8, 197, 576), heads=3)
    passes = plain_passes(problem)
    scores = 4 * 8 * 3 * 197 * 197
    softmax = only([one for one in passes if "softmax" in one.name])
    assert softmax.bytes == 2 * scores
    products = [one for one in passes if one.name == "bmm"]
    assert [one.flops for one in products] == [problem.flops // 2] * 2
    assert all(one.seconds >= one.flops / RATE[FULL] for one in products)
    assert sum(one.name == "_to_copy" for one in passes) >= 4, "to float32 and back"


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, FULL], ids=str)
def test_attention_in_any_dtype(dtype: torch.dtype) -> None:
    passes = plain_passes(Problem.make(ATTENTION, dtype, qkv=(2, 50, 96), heads=1))
    assert sum(one.name == "bmm" for one in passes) == 2
    assert ("_to_copy" in {one.name for one in passes}) is (dtype != FULL)
