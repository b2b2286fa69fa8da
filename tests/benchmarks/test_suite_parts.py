"""The parts of the suites: the record, rotation, frozen problems, summaries, comparisons, pictures."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import compare, pictures, rotation, shapes
from benchmarks.common import MODELS, RESULTS
from benchmarks.samples import Summary, ratio_interval
from benchmarks.suite import Case, Measured, Record, Settings, flat_rows
from benchmarks.suite_tables import TABLES, load
from updp_rt._timing import sample_side_by_side
from updp_rt.backends import Problem
from updp_rt.ops.tolerance import Accuracy
from updp_rt.runtime import dispatch
from updp_rt.runtime.table import forget_tables

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_tuned_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()
    yield
    forget_tables()


def typer_app(main: Callable[..., None]) -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


def new_record(out: Path, **settings: Any) -> Record:
    return Record("micro", Settings(device="cpu", out=out, **settings), lambda line: None, flat_rows, total=1)


def case_of(measure: Callable[[], Measured], key: str = "a case") -> Case:
    return Case(key, {"batch": 1}, ("eager", "ours"), lambda tell: measure())


def test_a_case_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    def fail() -> Measured:
        raise RuntimeError("no memory [left]\nand more")

    record = new_record(tmp_path)
    row = record.row(case_of(fail))
    assert row["red"] == dict.fromkeys(("eager", "ours"), "it failed: RuntimeError: no memory [left]")
    record.row(case_of(lambda: Measured({"eager": [1e-3]}, left_out={"ours": "absent"}), "another"))
    stored = load(tmp_path / "micro.json")
    assert [row["case"] for row in stored["rows"]] == ["a case", "another"]
    assert stored["rows"][1]["candidates"]["eager"]["median_ms"] == 1


def test_a_case_is_measured_once(tmp_path: Path) -> None:
    calls = []

    def measure() -> Measured:
        calls.append(1)
        return Measured({"eager": [1.0], "ours": [1.0]})

    record, case = new_record(tmp_path), case_of(measure)
    assert record.row(case) is record.row(case)
    assert len(calls) == 1


def test_time_is_up(tmp_path: Path) -> None:
    row = new_record(tmp_path, minutes=0.0).row(case_of(lambda: Measured({"eager": [1.0]})))
    assert row["left_out"] == dict.fromkeys(("eager", "ours"), "the 0 minutes are up")
    assert not row["candidates"]


def test_resuming(tmp_path: Path) -> None:
    """What has times is kept; what has none, or other candidates, is measured."""
    calls = []

    def measure(*names: str) -> Callable[[], Measured]:
        return lambda: calls.append(names) or Measured({name: [1.0] for name in names})

    first = new_record(tmp_path)
    first.row(case_of(measure("eager", "ours"), "whole"))
    first.row(case_of(measure("eager"), "part"))
    first.row(case_of(lambda: Measured(left_out={"eager": "late", "ours": "late"}), "none"))
    first.row(case_of(lambda: Measured(red={"eager": "wrong", "ours": "wrong"}), "not asked for again"))
    calls.clear()
    second = new_record(tmp_path, resume=True)
    for key in ("whole", "part", "none"):
        second.row(case_of(measure("eager", "ours"), key))
    assert len(calls) == 2
    rows = {row["case"]: row for row in load(second.path)["rows"]}
    assert set(rows) == {"whole", "part", "none", "not asked for again"}
    assert rows["not asked for again"]["red"] == {"eager": "wrong", "ours": "wrong"}
    second.row(case_of(measure("eager", "ours"), "none"))
    assert len(calls) == 2, "measured once a run"
    with pytest.raises(ValueError, match="its rounds was 11, not 5"):
        new_record(tmp_path, resume=True, rounds=5)


def test_samples_in_turn() -> None:
    """None is always the first of a round, or after the same one, and the limit leaves three rounds."""
    called: list[str] = []
    calls = {name: (lambda name=name: called.append(name)) for name in "abc"}
    samples = sample_side_by_side(calls, rounds=4, round_seconds=0.0, warm_calls=0)
    assert {len(values) for values in samples.values()} == {4}
    assert "".join(called) == "abc" + "abc" + "bca" + "cab" + "cba"
    told: list[int] = []
    limited = sample_side_by_side(calls, rounds=9, round_seconds=0.0, limit_seconds=0.0, each_round=told.append)
    assert {len(values) for values in limited.values()} == {3}
    assert told == [1, 2, 3]


@pytest.mark.parametrize(("shape", "dtype"), [((2, 5, 7, 3), torch.float32), ((3, 11), torch.bfloat16)])
def test_inputs_rotate_past_the_cache(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "cache_bytes", lambda device: 1 << 16)
    found = rotation.rotated(shape, dtype, CPU)
    assert {tuple(x.shape) for x in found} == {shape}
    assert {x.dtype for x in found} == {dtype}
    addresses = sorted(x.data_ptr() for x in found)
    size = math.prod(shape) * dtype.itemsize
    assert all(b - a >= size for a, b in pairwise(addresses))
    assert addresses[-1] + size + 64 - addresses[0] >= 2 << 16
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    assert all(x.is_contiguous(memory_format=layout) for x in found)
    assert all(x.isfinite().all() for x in found)
    assert len(rotation.rotated(shape, dtype, CPU, most=3)) == 3


def test_the_cache_is_known() -> None:
    assert rotation.cache_bytes(CPU) >= 1 << 18


@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_problems_are_the_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is timed or judged: which problems are met does not depend on it.
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda calls, **how: dict.fromkeys(calls, 1.0))
    monkeypatch.setattr(dispatch, "accuracy", lambda *args: Accuracy(0.0, 0.0, 0))
    frozen = shapes.frozen_problems([name], 1, torch.float32, "cpu")
    assert shapes.find_problems(name) == {problem: met[name] for problem, met in frozen}


def test_frozen_problems_at_other_batches() -> None:
    one, five = (
        [problem for problem, _ in shapes.frozen_problems(MODELS, batch, torch.float32, "cpu")] for batch in (1, 5)
    )
    assert len(set(one)) == len(one)
    assert [problem.x[0] for problem in five] == [5 * problem.x[0] for problem in one]
    assert all(isinstance(problem, Problem) for problem in one)


def test_summary() -> None:
    summary = Summary.of([4e-3, 1e-3, 3e-3, 2e-3, 5e-3])
    assert summary == Summary(pytest.approx(3.0), pytest.approx(2.0), pytest.approx(4.0), 5)
    assert Summary.of([2e-3]) == Summary(2.0, 2.0, 2.0, 1)
    assert ratio_interval(summary, Summary.of([2e-3])) == (pytest.approx(1.5), 0.0, math.inf)
    ratio, low, high = ratio_interval(Summary(3.0, 2.9, 3.1, 11), Summary(2.0, 1.9, 2.1, 11))
    assert low < ratio == 1.5 < high
    assert low > 1


def result(suite: str, scale: float = 1.0) -> dict[str, Any]:
    """A sample of a suite's results."""
    draw = random.Random(0)

    def row(case: str, names: list[str], about: dict[str, Any], **extra: Any) -> dict[str, Any]:
        times = {name: draw.uniform(1.0, 2.0) * scale for name in names}
        candidates = {
            name: {"median_ms": ms, "q1_ms": 0.98 * ms, "q3_ms": 1.02 * ms, "rounds": 11, **extra}
            for name, ms in times.items()
        }
        red = {"ours": "its error of [1e-1] is above the bound"}
        return {"case": case, **about, "candidates": candidates, "red": red, "left_out": {"late": "time is up"}}

    at = {"dtype": "float32", "batch": 1}
    rows = {
        "micro": [
            row(
                f"{operator} {n}",
                ["eager", "compiled", "vendor:epilogue", "onednn:matmul"],
                {"operator": operator, **at, "flops": 10**n, "bytes": 10**4},
            )
            for operator in ("linear", "conv2d", "depthwise_pointwise", "dual_linear", "attention")
            for n in (4, 6)
        ],
        "blocks": [
            row(
                f"{model} {n}",
                ["baseline", "accelerated", "pruned", "merged", "merged accelerated"],
                {"model": model, "block": f"blocks.{n}", "form": "full/conv", **at},
            )
            for model in MODELS
            for n in range(3)
        ],
        "models": [
            row(
                model,
                ["P0 eager", "P0 compiled", "P0 accelerated", "P3 eager", "P3 accelerated"],
                {"model": model, **at, "size": 224},
                peak_memory_mb=100.0,
            )
            for model in MODELS
        ],
        "paper": [
            row(
                "ConvNeXt b128",
                ["swin eager", "convnext P3 eager", "convnext P3 accelerated"],
                {"table": "ConvNeXt"},
                speedup=1.2,
                samples_per_sec=10.0,
                param_count=5.0,
                gmacs=1.0,
            ),
        ],
    }[suite]
    return {"suite": suite, "device": "a-cpu", "threads": 2, "versions": {"torch": "2"}, "commit": "c", "rows": rows}


@pytest.mark.parametrize("suite", TABLES)
def test_tables_and_pictures(suite: str, tmp_path: Path) -> None:
    (tmp_path / f"{suite}.json").write_text(json.dumps(result(suite)))
    found = CliRunner().invoke(typer_app(pictures.main), [str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert (tmp_path / f"{suite}.png").read_bytes().startswith(b"\x89PNG")
    console = Console(width=200, file=io.StringIO())
    console.print(TABLES[suite](result(suite)["rows"]))
    shown = console.file.getvalue()
    assert "its error of [1e-1] is above the bound" in shown
    assert "time is up" in shown


def test_pictures_of_the_results_kept_here(tmp_path: Path) -> None:
    for folder in RESULTS.iterdir():
        copied = tmp_path / folder.name
        copied.mkdir()
        for suite in TABLES:
            if (folder / f"{suite}.json").exists():
                (copied / f"{suite}.json").write_bytes((folder / f"{suite}.json").read_bytes())
        assert len(list(pictures.draw_folder(copied))) == len(list(copied.glob("*.json")))


def test_compare(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(result("models")))
    changed = result("models", scale=0.5)
    changed["commit"] = "d"
    changed["rows"][0]["candidates"]["P0 eager"] |= {"q1_ms": 0.1, "q3_ms": 9.0}
    after.write_text(json.dumps(changed))
    app = typer_app(compare.main)
    found = CliRunner().invoke(app, [str(before), str(after)]).output
    assert "2.000×" in found
    assert "20 in common: 19 faster, 0 slower, 1 within noise; geometric mean 2.000×" in found
    assert "commit differ: c, then d" in found
    assert "20 in common: 0 faster, 0 slower, 20 within noise" in CliRunner().invoke(app, [str(before)] * 2).output
    before.write_text(json.dumps(result("micro")))
    assert "nothing to compare" in str(CliRunner().invoke(app, [str(before), str(after)]))
    before.write_text("[")
    with pytest.raises(ValueError, match="holds no JSON"):
        load(before)
