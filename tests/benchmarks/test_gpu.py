"""`benchmarks.gpu` on the CPU: what it writes, what it withholds, and what it leaves out when time is up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import common, gpu, gpu_budget, gpu_shapes
from updp_rt.backends import BACKENDS, Geometry, Kernel, Problem, Weights
from updp_rt.runtime.table import forget_tables

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Results and tuned tables go to a folder of the test."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before
    forget_tables()


def run_gpu(tmp_path: Path, **options: Any) -> dict[str, Any]:
    given = {"models": "test_resnet", "batches": "1", "image_size": 64, "compile_mode": "none", "rounds": 1}
    gpu.main(device="cpu", dtype="float32", out=tmp_path / "out.json", **{**given, **options})
    return json.loads((tmp_path / "out.json").read_text())


def new_run(minutes: float = 8.0) -> gpu.Run:
    return gpu.Run(CPU, torch.float32, 64, "none", 1, gpu.Budget(minutes))


def block_problem() -> Problem:
    weights = ((8, 1, 7, 7), (8,), (8, 8, 1, 1), (8,))
    geometry = Geometry(padding=(3, 3))
    return Problem("depthwise_pointwise", (1, 8, 9, 9), weights, True, "gelu", geometry, torch.float32, "cpu")


def test_what_a_run_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(torch, "compile", lambda call, mode, dynamic, **backend: modes.append(mode) or call)
    found = run_gpu(tmp_path, models="test_resnet,test_vit", batches="2", compile_mode="max-autotune")

    (stored,) = (tmp_path / "results").rglob("gpu-float32.json")
    assert {"commit", "versions", "device", "cores"} <= json.loads(stored.read_text()).keys()
    assert found["environment"]["torch"] == torch.__version__
    assert not found["failures"]
    assert not found["left_out"]
    assert any("graph" in reason for reason in found["skipped"])
    assert any("Triton" in reason for reason in found["skipped"])
    kernels = {(row["operator"], row["dtype"]) for row in found["numerics"]}
    assert kernels == {(o, d) for o in gpu.OPERATORS[:-1] for d in ("float16", "bfloat16", "float32")}

    assert [(row["model"], row["batch"]) for row in found["rows"]] == [("test_resnet", 2), ("test_vit", 2)]
    for row in found["rows"]:
        times = row["times_ms"]
        assert times.keys() == {"eager", "compiled", "accelerated", "merged_accelerated"}
        best = min(times["eager"], times["compiled"])
        assert row["over_best_baseline"]["accelerated"] == pytest.approx(best / times["accelerated"])
        assert row["over_eager"]["accelerated"] == pytest.approx(times["eager"] / times["accelerated"])

    problems = [row["problem"] for row in found["operators"]]
    assert len(problems) == len(set(problems))
    for row in found["operators"]:
        assert row["chosen"] in row["times_ms"]
        assert row["chosen_over_unfused"] >= 1
        assert row["roofline"] > 0
        assert row["met_in"]
    assert {"test_vit b2 merged"} in [set(row["met_in"]) for row in found["operators"]]
    timed = [row for row in found["operators"] if "device_ms" in row]
    assert len(timed) == gpu.SPREAD
    assert all("compiled" in row["device_ms"] for row in timed)
    assert modes == ["max-autotune"] * 2 + ["max-autotune-no-cudagraphs"] * gpu.SPREAD


def test_speeds_of_a_wrong_kernel_are_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that fails on odd shapes: none of its times, nor of a model that runs it."""
    prepare = gpu_shapes.prepare

    def half_right(name: str, problem: Problem, weights: Weights) -> Kernel:
        kernel = prepare(name, problem, weights)

        def wrong(x: Tensor, other: Tensor | None) -> Tensor:
            y = kernel(x, other)
            y.view(-1)[-1] = torch.nan
            return y

        return wrong if problem.operator == "linear" else kernel

    monkeypatch.setattr(gpu_shapes, "prepare", half_right)
    # The reference would otherwise be chosen now and then, and the model reported.
    monkeypatch.setattr(BACKENDS["reference"], "supports", lambda problem: (problem.operator != "linear", "off"))
    found = run_gpu(tmp_path)
    wrong = {row["candidate"] for row in found["failures"]}
    assert {row["operator"] for row in found["failures"]} == {"linear"}
    for row in found["operators"]:
        assert (row["operator"] == "linear") == bool(wrong & row["withheld"].keys())
        assert row["operator"] != "linear" or not wrong & row["times_ms"].keys()
    (row,) = found["rows"]
    assert "found wrong" in row["withheld"]
    assert "times_ms" not in row


def test_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replay sees the images; what cannot be captured is skipped, and Inductor's own graphs are left alone."""
    images, run = torch.ones(2), new_run()

    def stand_in(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        result = call()
        return lambda: result.copy_(call()), result

    def uncapturable() -> Tensor:
        raise RuntimeError("not while capturing")

    monkeypatch.setattr(gpu_shapes, "graphed", stand_in)
    calls = {"eager": lambda: images * 2, "compiled": uncapturable, "accelerated": uncapturable}
    found = gpu.graphs(run, calls, images, "a model")
    assert found.keys() == {"eager_graph"}
    images.zero_()
    assert torch.equal(found["eager_graph"](), torch.full((2,), 2.0))
    assert run.skipped == ["graph of accelerated, a model: RuntimeError: not while capturing"]


def test_a_model_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    found = run_gpu(tmp_path, models="no_such_model,test_resnet", minutes=2.0)
    assert "no_such_model" in found["rows"][0]["withheld"]
    assert "times_ms" in found["rows"][1]


def test_time_is_up(tmp_path: Path) -> None:
    found = run_gpu(tmp_path, minutes=0.0)
    assert found["rows"] == []
    assert "models: test_resnet at batch 1" in found["left_out"]
    assert "numerics: linear float32" in found["left_out"]


def test_budget_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long once is not begun again where it would not fit; compiling inside a model is not the model's."""
    now = 0.0
    monkeypatch.setattr(gpu_budget.time, "monotonic", lambda: now)
    budget = gpu.Budget(100 / 60)
    assert budget.allows("compile", "first")
    with budget.spending("models"):
        now += 1
        with budget.spending("compile"):
            now += 40
    assert not budget.allows("compile", "second")  # 41 + 40 of 60
    assert budget.allows("models", "second")
    assert budget.left_out == ["compile: second"]


def test_blocks_beside_their_bound() -> None:
    run, problem = new_run(), block_problem()
    run.problems[problem.key] = problem
    times = {"reference": 2.0, "vendor:epilogue": 1.0, "triton:a": 0.5}
    run.operators.append(gpu.operator_row(run, problem, "vendor:epilogue", times, {"triton:a": "it is off"}))
    (row,) = run.operators
    assert row["withheld"] == {"triton:a": "it is off"}
    assert row["fused_over_unfused"] == 2
    gpu.measure_operators(run)
    assert row["device_ms"].keys() == {"reference", "vendor:epilogue"}
    assert row["meets_bound"] == (row["memory_roofline"] >= gpu.ROOFLINE_BOUND)


def test_spread_reaches_every_operator() -> None:
    def problem(operator: str, rows: int, *weights: tuple[int, ...]) -> Problem:
        return Problem(operator, (rows, 8), (*weights, None), False, "none", Geometry(), torch.float32, "cpu")

    problems = {f"linear {rows}": problem("linear", rows, (8, 8)) for rows in range(1, 40)}
    problems["dual"] = problem("dual_linear", 3, (8, 8), (8, 4))
    chosen = gpu_shapes.spread(problems, 6)
    assert len(set(chosen)) == 6
    assert {"dual", "linear 1", "linear 39"} <= set(chosen)
    assert gpu_shapes.spread({}, 6) == []


def test_operands_fit_their_problem() -> None:
    for problem in gpu_shapes.odd_problems(torch.float32, CPU):
        x, other, weights = gpu_shapes.operands(problem, CPU)
        y = gpu_shapes.prepare("reference", problem, weights)(x, other)
        assert y.shape == problem.output
