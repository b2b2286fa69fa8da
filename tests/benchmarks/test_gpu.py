"""The suite ``gpu`` on the CPU: what it writes, what it withholds, and what it leaves out when time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import budget, models, operators, rotation
from benchmarks.commands import app
from benchmarks.isolation import Worker
from benchmarks.problems import DTYPES, ODD, odd_problems
from benchmarks.protocol import Record
from benchmarks.results import Row, read
from benchmarks.settings import Settings
from benchmarks.suites import gpu
from tests.runtime.tape import on_tape
from updp_rt.backends import BACKENDS, Prepared
from updp_rt.ops import (
    ADD_LAYER_NORM,
    CONV2D_MAX_POOL,
    DEPTHWISE_POINTWISE,
    DUAL_LINEAR,
    INVERTED_RESIDUAL,
    LAYER_NORM,
    LINEAR,
    MLP,
    Problem,
    Weights,
)
from updp_rt.runtime.table import forget_tables

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tuned tables go to a folder of the test, and few inputs are past the cache."""
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rotation, "cache_bytes", lambda device: 1 << 20)
    forget_tables()
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before
    forget_tables()


def run_gpu(tmp_path: Path, **options: str) -> dict[str, list[Row]]:
    """The rows of each part."""
    given = {"model": "test_resnet", "batch-size": "1", "img-size": "64", "torchcompile": "none"}
    given |= {"num-bench-iter": "1", "num-warm-iter": "1", **{key.replace("_", "-"): v for key, v in options.items()}}
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    command = ["gpu", "--device", "cpu", "--precision", "float32", "--out", str(tmp_path), *words]
    found = CliRunner().invoke(app, command)
    assert found.exit_code in (0, 1), (found.output, found.exception)
    parts: dict[str, list[Row]] = {"numerics": [], "models": [], "operators": []}
    for row in read(tmp_path / "gpu.csv").rows:
        parts[row["part"]].append(row)
    return parts


def here(settings: Settings) -> Worker:
    """One that needs no process."""
    return Worker(settings, apart=False, begin=int)


def named(rows: list[Row]) -> dict[str, Mapping[str, Row]]:
    """By case and candidate."""
    return {case: {r["candidate"]: r for r in rows if r["case"] == case} for case in {row["case"] for row in rows}}


@pytest.mark.slow
def test_what_a_run_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(torch, "compile", lambda call, mode, dynamic, backend: modes.append(mode) or call)
    found = run_gpu(tmp_path, model="test_resnet,test_vit", batch_size="2", pruned="1", torchcompile="inductor")
    assert {"commit", "versions", "device", "environment"} <= read(tmp_path / "gpu.csv").about.keys()
    assert not any("wrong" in row or "left_out" in row for rows in found.values() for row in rows)
    kernels = {(row["operator"], row["dtype"]) for row in found["numerics"]}
    # Models are given these on a GPU alone.
    elsewhere = (LAYER_NORM, ADD_LAYER_NORM, MLP, INVERTED_RESIDUAL, CONV2D_MAX_POOL)
    here = [operator for operator in ODD if operator not in elsewhere]
    assert kernels == {(operator.name, str(dtype).removeprefix("torch.")) for operator in here for dtype in DTYPES}
    assert all(row["error"] <= row["bound"] for row in found["numerics"])

    cases = named(found["models"])
    assert cases.keys() == {"test_resnet b2 float32 64", "test_vit b2 float32 64"}
    for case in cases.values():
        assert case.keys() == {"P0 eager", "P0 compiled", "P0 accelerated", "P1 accelerated"}
        assert all(row["median_ms"] > 0 for row in case.values())

    cases = named(found["operators"])
    for case in cases.values():
        row = case["eager"]
        assert row["met"]
        chosen = case[row["chosen"].replace("reference", "eager")]
        assert chosen["dispatch_ms"] <= row["dispatch_ms"]
    assert any("test_vit b2 P1 accelerated" in case["eager"]["met"] for case in cases.values())
    timed = [case for case in cases.values() if "median_ms" in case["eager"]]
    assert gpu.SPREAD == len(timed) < len(cases)
    assert all("compiled" in case and case["eager"]["roofline"] > 0 for case in timed)
    assert modes == ["max-autotune"] * 2 + ["max-autotune-no-cudagraphs"] * gpu.SPREAD


def test_speeds_of_a_wrong_kernel_are_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that fails on odd shapes: none of its times, nor of a model that runs it."""
    prepare = operators.prepare

    def half_right(name: str, problem: Problem, weights: Weights) -> Prepared:
        kernel = prepare(name, problem, weights)

        def wrong(x: Tensor, other: Tensor | None) -> Tensor:
            y = kernel(x, other)
            y.view(-1)[-1] = torch.nan
            return y

        return wrong if problem.operator is LINEAR and name != "reference" else kernel

    monkeypatch.setattr(operators, "prepare", half_right)
    # The reference would otherwise be chosen now and then, and the model reported.
    monkeypatch.setattr(BACKENDS["reference"], "supports", lambda problem: (problem.operator is not LINEAR, "off"))
    found = run_gpu(tmp_path, pruned="1")
    wrong = {row["candidate"] for row in found["numerics"] if "wrong" in row}
    assert {row["operator"] for row in found["numerics"] if "wrong" in row} == {"linear"}
    for row in found["operators"]:
        if row["operator"] == "linear" and row["candidate"] in wrong:
            assert "median_ms" not in row
            assert "dispatch_ms" not in row
        assert ("wrong" in row) == (row["operator"] == "linear" and row["candidate"] in wrong)
    for row in found["models"]:
        assert ("found wrong" in row.get("wrong", "")) == ("accelerated" in row["candidate"])
        assert ("median_ms" in row) == ("accelerated" not in row["candidate"])


def test_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replay sees the images that it is given."""

    def stand_in(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        result = call()
        return lambda: result.copy_(call()), result

    monkeypatch.setattr(models, "graphed", stand_in)
    run = models.in_graph(lambda images: images * 2, torch.zeros(2))
    assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(run(torch.full((2,), 3.0)), torch.full((2,), 6.0))


def test_on_rocm_eager_models_run_in_both_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.2")
    case = gpu._model_case("test_resnet", 1, "float32", Settings(device="cpu"), here(Settings(device="cpu")), {}, {})
    assert {"P0 eager", "P0 eager nchw"} <= set(case.candidates)
    monkeypatch.undo()
    layouts, plain = set(), F.conv2d

    def convolve(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        layouts.add(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight)))
        return plain(x, weight, *rest)

    monkeypatch.setattr(F, "conv2d", convolve)
    settings = Settings(device="cpu", image_size=32, rounds=1, compiler="none", channels_last=True)
    for name in ("P0 eager", "P0 eager nchw"):
        layouts.clear()
        found, _ = gpu.time_variants(settings, "test_resnet", 2, "float32", (name,))
        assert found.samples.keys() == {name}
        assert found.values[name]["mode"] == name.removeprefix("P0 ")
        assert ((False, False) in layouts) == ("nchw" in name)


def test_graphs_stand_beside_all_but_the_compiled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may have graphs of its own. Where one cannot be captured the others are still measured."""
    monkeypatch.setattr(Settings, "on_gpu", True)
    settings = Settings(device="cpu")
    case = gpu._model_case("test_resnet", 1, "float32", settings, here(settings), {}, {})
    graphs = {name for name in case.candidates if name.endswith("graph")}
    assert graphs == {"P0 eager graph", "P0 accelerated graph", "P6 accelerated graph"}
    monkeypatch.undo()

    def uncapturable(call: Callable[[], Tensor]) -> Any:
        raise RuntimeError("not while capturing")

    monkeypatch.setattr(models, "graphed", uncapturable)
    settings = Settings(device="cpu", image_size=32, rounds=1, compiler="none")
    with on_tape() as tape:
        found, _ = gpu.time_variants(settings, "test_resnet", 1, "float32", ("P0 accelerated", "P0 accelerated graph"))
    assert found.samples.keys() == {"P0 accelerated", "P0 accelerated graph"}
    assert tape.recorded == 1
    assert tape.replayed > 2, "an accelerated model is timed on its engine"
    found, _ = gpu.time_variants(settings, "test_resnet", 1, "float32", ("P0 eager", "P0 eager graph"))
    assert found.samples.keys() == {"P0 eager"}
    assert found.wrong == {"P0 eager graph": "it failed: RuntimeError: not while capturing"}


@pytest.mark.slow
def test_a_model_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    """A Levit is of no family that can be pruned, and its attention is of one image size."""
    cases = named(run_gpu(tmp_path, model="levit_128s,test_resnet", pruned="1")["models"])
    assert all("it failed: " in row["wrong"] for row in cases["levit_128s b1 float32 64"].values())
    assert all("median_ms" in row for row in cases["test_resnet b1 float32 64"].values())


def test_time_is_up(tmp_path: Path) -> None:
    found = run_gpu(tmp_path, minutes="0")
    assert {row["left_out"] for rows in found.values() for row in rows} == {"the 0 minutes are up"}
    assert {row["model"] for row in found["models"]} == {"test_resnet"}
    assert {row["operator"] for row in found["numerics"]} == {operator.name for operator in ODD}
    assert not found["operators"]


def test_budget_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long once is not begun again where it would not fit; compiling inside a model is not the model's."""
    now = 0.0
    monkeypatch.setattr(budget.time, "monotonic", lambda: now)
    spent = budget.Budget(100 / 60)
    assert spent.allows("compile", 0.6)
    with spent.spending("models"):
        now += 1
        with spent.spending("compile"):
            now += 40
    assert not spent.allows("compile", 0.6)  # 41 + 40 of 60
    assert spent.allows("models", 0.8)


@pytest.mark.parametrize("problem", odd_problems(DEPTHWISE_POINTWISE, torch.float32, CPU)[:1], ids=["odd"])
def test_blocks_beside_their_bound(problem: Problem, tmp_path: Path) -> None:
    """A candidate that dispatch had demoted has no time; ConvNeXt's merged block has a bound to reach."""
    times = {"reference": 2.0, "vendor:epilogue": 1.0, "triton:a": 0.5}
    met = gpu.Met(problem, "vendor:epilogue", times, {"triton:a": "it is off"}, ["a model"])
    settings = Settings(device="cpu", rounds=1, out=tmp_path)
    case = gpu._operator_case(problem.key, met, settings, here(settings), "all", {}, on_device=True, compiled=False)
    record = Record(gpu.SUITE, settings, lambda line: None)
    rows = {row["candidate"]: row for row in record.rows_of(case)}
    assert rows["triton:a"]["wrong"] == "it is off"
    assert "dispatch_ms" not in rows["triton:a"]
    assert rows["eager"]["dispatch_ms"] == 2.0
    assert rows["eager"]["limit"] == gpu.ROOFLINE_BOUND
    assert rows["vendor:epilogue"]["memory_roofline"] > 0
    *_, grid = gpu.tables(list(rows.values()))
    assert "chosen over unfused: 2.00 (2.00)" in grid.notes[1]
    assert "of 1 reach their bound" in grid.to_markdown()


def test_spread_reaches_every_operator() -> None:
    problems = {
        f"linear {rows}": Problem.make(LINEAR, torch.float32, x=(rows, 8), weight=(8, 8), act="none")
        for rows in range(1, 40)
    }
    shapes = {"x": (3, 8), "a": (3, 4), "w_x": (8, 8), "w_a": (8, 4)}
    problems["dual"] = Problem.make(DUAL_LINEAR, torch.float32, **shapes, act="none")
    chosen = operators.spread(problems, 6)
    assert len(set(chosen)) == 6
    assert {"dual", "linear 1", "linear 39"} <= set(chosen)
    assert operators.spread({}, 6) == []


def test_operands_fit_their_problem() -> None:
    for operator in ODD:
        for problem in odd_problems(operator, torch.float32, CPU):
            inputs, weights = operators.operands(problem, CPU)
            y = operators.prepare("reference", problem, weights)(*inputs)
            assert y.shape == problem.output
