"""What a few workgroups executed stands for the launch: against whole launches, and against what must be executed."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import pytest
import torch

from updp_rt.emulator import Counters
from updp_rt.ops import ATTENTION, CONV2D, LINEAR, Problem
from updp_rt.projection import Work, sampling
from updp_rt.projection.candidates import Candidate, candidates, refusal


def linear(rows: int, depth: int, out: int, dtype: torch.dtype = torch.float16) -> Problem:
    return Problem.make(LINEAR, dtype, x=(rows, depth), weight=(out, depth), bias=(out,), residual=True, act="gelu")


WHOLE, BORDERS = linear(768, 96, 384), linear(700, 96, 360)
LANGUAGES = ("hip", "triton")


@pytest.mark.parametrize("workgroups", [1, 2, 3, 4, 1000])
def test_samples_stand_for_all(workgroups: int) -> None:
    samples = sampling._sample(workgroups)
    assert sum(weight for _, weight in samples) == workgroups
    assert len(samples) <= 3
    assert {0, workgroups - 1} <= {index for index, _ in samples}


def whole(monkeypatch: pytest.MonkeyPatch, problem: Problem, language: str) -> list[Candidate]:
    """As `candidates`, with every workgroup executed."""
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_sample", lambda workgroups: [(index, 1) for index in range(workgroups)])
        return candidates(problem, (language,))


@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_of_whole_tiles_are_exact(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    for sampled, full in zip(candidates(WHOLE, (language,)), whole(monkeypatch, WHOLE, language), strict=True):
        assert asdict(sampled.launch.work) == pytest.approx(asdict(full.launch.work), rel=0.01), sampled.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_of_cut_tiles_are_near(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    full = {candidate.name: candidate for candidate in whole(monkeypatch, BORDERS, language)}
    for sampled in candidates(BORDERS, (language,)):
        assert sampled.projection.time == pytest.approx(full[sampled.name].projection.time, rel=0.15), sampled.name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("dtype", "flops"), [(torch.float16, 256), (torch.bfloat16, 128), (torch.float32, 64)])
def test_the_matrix_units_do_the_operators_arithmetic(language: str, dtype: torch.dtype, flops: int) -> None:
    # Multiplications and additions of a SIMD's matrix unit in a cycle; 96 values of depth are whole steps of any tile.
    problem = linear(768, 192, 384, dtype)
    for candidate in candidates(problem, (language,)):
        launch = candidate.launch
        assert launch.work.matrix_cycles * launch.workgroups == pytest.approx(problem.flops / flops), candidate.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_tensor_crosses_l1_at_least_once(language: str) -> None:
    for candidate in candidates(WHOLE, (language,)):
        assert candidate.launch.work.global_lines * candidate.launch.workgroups * 64 >= WHOLE.bytes_moved


def test_executions_by_address_are_all_that_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        sampling, "stall_cycles", lambda text, executions, _: told.append(sum(executions.values())) or 0
    )
    counted = [found.launch.work.instructions / found.launch.waves for found in candidates(WHOLE)]
    assert sorted(told) == pytest.approx(sorted(counted))


def test_candidates_stand_fastest_first_and_below_the_roofline() -> None:
    found = candidates(WHOLE)
    times = [candidate.projection.time for candidate in found]
    assert times == sorted(times)
    assert {candidate.name.split(":")[0] for candidate in found} == set(LANGUAGES)
    assert all(0 < candidate.share < 1 for candidate in found)


def test_the_operators_launch_as_before_after_sampling() -> None:
    from updp_rt.kernels.hip import device_of
    from updp_rt.kernels.triton import linear as operator

    module = sys.modules[operator.__module__]
    kernel = module.linear_kernel
    candidates(WHOLE)
    assert module.linear_kernel is kernel
    with pytest.raises(ValueError, match="do not run on"):
        device_of(torch.device("cpu"))


def test_means_weigh_samples_by_what_they_stand_for() -> None:
    none = Counters(**dict.fromkeys(Counters.__dataclass_fields__, 0))
    edge, inner = (replace(none, workgroups=1, matrix=matrix) for matrix in (10, 20))
    assert Work.mean([(edge, 1), (inner, 8), (edge, 1)]).matrix == 18


@pytest.mark.parametrize("groups", [2, 32])
def test_what_has_no_kernel_is_refused(groups: int) -> None:
    sizes = {"x": (1, 32, 8, 8), "weight": (32, 32 // groups, 3, 3)}
    grouped = Problem.make(CONV2D, torch.float16, **sizes, act="none", stride=(1, 1), padding=(1, 1), groups=groups)
    assert "grouped" in str(refusal(grouped))
    assert "heads of 32, 64, 96, 128 values" in str(
        refusal(Problem.make(ATTENTION, torch.float16, qkv=(1, 8, 48), heads=2))
    )
    assert refusal(WHOLE) is None
