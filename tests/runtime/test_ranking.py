"""What is measured where a projection ranks the candidates, what is chosen where nothing is, and what ships."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.ranking import PATH, ranked_problems
from tests.runtime.conftest import Stub
from tests.runtime.test_dispatch import layer, rows
from updp_rt.backends import BACKENDS
from updp_rt.kernels import hip
from updp_rt.ops import LINEAR, Problem
from updp_rt.projection import LABEL
from updp_rt.runtime import dispatch
from updp_rt.runtime.ranking import ranking
from updp_rt.runtime.table import forget_tables

Install = Callable[..., dict[str, Stub]]


def right(y: Tensor) -> Tensor:
    return y


def wrong(y: Tensor) -> Tensor:
    return y + 1


@pytest.fixture
def five(candidates: Install, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stub]:
    """Five candidates, of which three are ranked: the first best."""
    monkeypatch.setattr(dispatch, "_SURE", ("sure", "reference"))
    monkeypatch.setattr(dispatch, "ranking", lambda *_: ["first", "second", "third", "gone"])
    times = {"third": 1e-3, "second": 2e-3, "first": 3e-3, "sure": 4e-3, "reference": 5e-3}
    return candidates(**{name: (right, seconds) for name, seconds in times.items()})


def test_of_ranked_candidates_the_best_two_and_the_surest_are_measured(five: dict[str, Stub]) -> None:
    (row,) = rows(updp_rt.accelerate(*layer()))
    assert row.times_ms == {"second": 2.0, "first": 3.0, "sure": 4.0}
    assert (row.kernel, row.why) == ("second", "the fastest measured")
    assert {name for name, stub in five.items() if stub.prepared} == set(row.times_ms)


@pytest.mark.usefixtures("five")
def test_all_are_measured_where_that_is_wanted_and_the_table_keeps_them() -> None:
    (row,) = rows(updp_rt.accelerate(*layer(), measure="all"))
    assert len(row.times_ms) == 5
    forget_tables()
    for measure in (True, False):
        (row,) = rows(updp_rt.accelerate(*layer(), measure=measure))
        assert (row.kernel, row.why, len(row.times_ms)) == ("third", "the fastest measured", 5)


@pytest.fixture
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda *_, **__: pytest.fail("it measured"))


@pytest.mark.usefixtures("no_measurement")
def test_without_measuring_the_projected_best_runs_after_its_check(five: dict[str, Stub]) -> None:
    model, x = layer()
    (row,) = rows(updp_rt.accelerate(model, x, measure=False))
    assert (row.kernel, row.why, row.times_ms) == ("first", "projected to be the fastest, not measured", {})
    assert [name for name, stub in five.items() if stub.prepared] == ["first"]


@pytest.mark.usefixtures("no_measurement")
def test_without_measuring_a_wrong_kernel_is_demoted_all_the_same(five: dict[str, Stub]) -> None:
    five["first"].change = wrong
    model, x = layer()
    fast = updp_rt.accelerate(model, x, measure=False)
    (row,) = rows(fast)
    assert row.kernel == "second"
    assert "above the bound" in row.demoted["first"]
    assert torch.equal(fast(x), model(x))


def test_what_is_measured_replaces_the_projection(five: dict[str, Stub]) -> None:
    assert rows(updp_rt.accelerate(*layer(), measure=False))[0].kernel == "first"
    updp_rt.accelerate(*layer())
    assert rows(updp_rt.accelerate(*layer(), measure=False))[0].kernel == "second"


@pytest.mark.parametrize("measure", [True, False])
def test_one_that_was_ranked_lower_follows_where_all_before_it_are_wrong(five: dict[str, Stub], measure: bool) -> None:
    for name in ("first", "second", "sure"):
        five[name].change = wrong
    assert rows(updp_rt.accelerate(*layer(), measure=measure))[0].kernel == "third"


@pytest.mark.usefixtures("no_measurement")
def test_without_a_ranking_the_surest_runs() -> None:
    (row,) = rows(updp_rt.accelerate(*layer(), measure=False))
    assert (row.kernel, row.why) == ("vendor:epilogue", "the surest, as nothing was measured")


def linear_problem(rows: int, columns: int = 192) -> Problem:
    shapes = {"x": (rows, columns), "weight": (192, columns), "bias": (192,)}
    return Problem.make(LINEAR, torch.float16, **shapes, residual=True, act="none")


def test_the_nearest_batch_ranks_shapes_that_were_not_projected() -> None:
    device = torch.device("cpu")
    assert ranking(linear_problem(197), device) == [], "no gfx908 here"
    with hip.emulated_mi100():
        known = ranking(linear_problem(197 * 128), device)
        assert known
        assert all(name.startswith(("hip:", "triton:")) for name in known)
        assert ranking(linear_problem(197 * 120), device) == known
        assert ranking(linear_problem(0), device) == []
        assert ranking(linear_problem(197, columns=200), device) == []


def test_the_ranking_that_ships_says_what_it_is_and_knows_the_models_shapes() -> None:
    assert LABEL in json.loads(PATH.read_text())["what"]
    with hip.emulated_mi100():
        for problem in ranked_problems():
            best = ranking(problem, torch.device("cpu"))[0]
            if best.startswith("hip:"):  # it is of today's kernels
                assert best.removeprefix("hip:") in BACKENDS["hip"].configs(problem), problem.key


@pytest.mark.usefixtures("no_measurement")
def test_a_model_on_an_mi100_is_accelerated_without_a_measurement() -> None:
    model, x = nn.Sequential(nn.Linear(192, 1000)).eval().half(), torch.randn(1, 192).half()
    with hip.emulated_mi100():
        (row,) = rows(updp_rt.accelerate(model, x, backends=("hip", "reference"), measure=False))
    assert row.kernel.startswith("hip:")
    assert row.why == "projected to be the fastest, not measured"
