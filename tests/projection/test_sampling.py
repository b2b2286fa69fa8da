"""What a few workgroups executed stands for the launch: against whole launches, and against what must be executed."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import pytest
import torch

from updp_rt.backends import Geometry, Problem
from updp_rt.emulator import Counters
from updp_rt.projection import Work, sampling
from updp_rt.projection.candidates import Candidate, candidates, refusal

LINEAR = Problem("linear", (768, 96), ((384, 96), (384,)), True, "gelu", Geometry(), torch.float16, "cpu")
BORDERS = replace(LINEAR, x=(700, 96), weights=((360, 96), (360,)))
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
    for sampled, full in zip(candidates(LINEAR, (language,)), whole(monkeypatch, LINEAR, language), strict=True):
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
    problem = replace(LINEAR, x=(768, 192), weights=((384, 192), (384,)), dtype=dtype)
    for candidate in candidates(problem, (language,)):
        launch = candidate.launch
        assert launch.work.matrix_cycles * launch.workgroups == pytest.approx(problem.flops / flops), candidate.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_tensor_crosses_l1_at_least_once(language: str) -> None:
    for candidate in candidates(LINEAR, (language,)):
        assert candidate.launch.work.global_lines * candidate.launch.workgroups * 64 >= LINEAR.bytes_moved


def test_executions_by_address_are_all_that_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        sampling, "stall_cycles", lambda text, executions, _: told.append(sum(executions.values())) or 0
    )
    counted = [found.launch.work.instructions / found.launch.waves for found in candidates(LINEAR)]
    assert sorted(told) == pytest.approx(sorted(counted))


def test_candidates_stand_fastest_first_and_below_the_roofline() -> None:
    found = candidates(LINEAR)
    times = [candidate.projection.time for candidate in found]
    assert times == sorted(times)
    assert {candidate.name.split(":")[0] for candidate in found} == set(LANGUAGES)
    assert all(0 < candidate.share < 1 for candidate in found)


def test_the_operators_launch_as_before_after_sampling() -> None:
    from updp_rt.kernels.hip import device_of
    from updp_rt.kernels.triton.launch import wrap_triton

    candidates(LINEAR)
    assert sys.modules["updp_rt.kernels.triton.linear"].wrap_triton is wrap_triton
    with pytest.raises(ValueError, match="do not run on"):
        device_of(torch.device("cpu"))


def test_means_weigh_samples_by_what_they_stand_for() -> None:
    none = Counters(**dict.fromkeys(Counters.__dataclass_fields__, 0))
    edge, inner = (replace(none, workgroups=1, matrix=matrix) for matrix in (10, 20))
    assert Work.mean([(edge, 1), (inner, 8), (edge, 1)]).matrix == 18


@pytest.mark.parametrize("groups", [2, 32])
def test_what_has_no_kernel_is_refused(groups: int) -> None:
    geometry = Geometry(padding=(1, 1), groups=groups)
    grouped = Problem(
        "conv2d", (1, 32, 8, 8), ((32, 32 // groups, 3, 3), None), False, "none", geometry, torch.float16, "cpu"
    )
    assert "grouped" in str(refusal(grouped))
    assert "attention" in str(refusal(replace(grouped, operator="attention")))
    assert refusal(LINEAR) is None
