"""The parts of the suites: record, results, rotation, frozen problems, summaries, comparisons, pictures, page."""

from __future__ import annotations

import io
import math
import random
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageColor
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import page, problems, results, rotation
from benchmarks.commands import STUDIES, SUITES, app
from benchmarks.compare import compare
from benchmarks.models import MODELS
from benchmarks.pictures import FIELD_STYLES, PICTURES
from benchmarks.protocol import Case, LeftOut, Measured, Record, Wrong, race
from benchmarks.results import RESULTS, Result, Row, read
from benchmarks.samples import Summary, ratio_interval
from benchmarks.settings import Settings
from benchmarks.studies.fading import ARMS
from updp_rt._timing import sample_side_by_side
from updp_rt.ops import Problem
from updp_rt.runtime.table import forget_tables

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_tuned_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()
    yield
    forget_tables()


def new_record(out: Path, **settings: Any) -> Record:
    return Record(SUITES["micro"], Settings(device="cpu", out=out, **settings), lambda line: None, total=1)


def case_of(measure: Callable[[], Measured], key: str = "a case") -> Case:
    return Case(key, {"batch": 1}, ("eager", "ours"), lambda record: measure())


def test_a_case_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    def fail() -> Measured:
        raise RuntimeError("no memory [left]\nand more")

    record = new_record(tmp_path)
    rows = record.rows_of(case_of(fail))
    assert {row["candidate"]: row["wrong"] for row in rows} == dict.fromkeys(
        ("eager", "ours"), "it failed: RuntimeError: no memory [left]"
    )
    record.rows_of(case_of(lambda: Measured({"eager": [1e-3]}, left_out={"ours": "absent"}), "another"))
    stored = read(tmp_path / "micro.csv").rows
    assert [row["case"] for row in stored] == ["a case"] * 2 + ["another"] * 2
    assert [row.get("median_ms") for row in stored] == [None, None, 1, None]


def test_a_case_is_measured_once(tmp_path: Path) -> None:
    calls = []

    def measure() -> Measured:
        calls.append(1)
        return Measured({"eager": [1.0], "ours": [1.0]})

    record, case = new_record(tmp_path), case_of(measure)
    assert record.rows_of(case) is record.rows_of(case)
    assert len(calls) == 1


def test_time_is_up(tmp_path: Path) -> None:
    rows = new_record(tmp_path, minutes=0.0).rows_of(case_of(lambda: Measured({"eager": [1.0]})))
    assert [row["left_out"] for row in rows] == ["the 0 minutes are up"] * 2


def test_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has times is kept; what has none, or other candidates, is measured. The file says what made all of it."""
    calls = []

    def measure(*names: str) -> Callable[[], Measured]:
        return lambda: calls.append(names) or Measured({name: [1.0] for name in names})

    monkeypatch.setattr(results, "commit", lambda: "a")
    first = new_record(tmp_path, command="python -m benchmarks micro")
    first.rows_of(case_of(measure("eager", "ours"), "whole"))
    first.rows_of(case_of(measure("eager"), "part"))
    first.rows_of(case_of(lambda: Measured(left_out={"eager": "late", "ours": "late"}), "none"))
    first.rows_of(case_of(lambda: Measured(wrong={"eager": "wrong", "ours": "wrong"}), "not asked for again"))
    calls.clear()
    monkeypatch.setattr(results, "commit", lambda: "b")
    second = new_record(tmp_path, resume=True, command="python -m benchmarks micro --minutes 9")
    for key in ("whole", "part", "none"):
        second.rows_of(case_of(measure("eager", "ours"), key))
    assert len(calls) == 2
    stored = read(second.path)
    assert {row["case"] for row in stored.rows} == {"whole", "part", "none", "not asked for again"}
    assert [row["wrong"] for row in stored.rows if row["case"] == "not asked for again"] == ["wrong", "wrong"]
    assert stored.about["commit"] == "a, b"
    commands = "python -m benchmarks micro && python -m benchmarks micro --minutes 9 --resume"
    assert stored.about["command"] == commands
    second.rows_of(case_of(measure("eager", "ours"), "none"))
    assert len(calls) == 2, "measured once a run"
    third = new_record(tmp_path, resume=True, command="python -m benchmarks micro --minutes 9")
    assert third.about["command"] == commands
    third.rows_of(case_of(lambda: Measured({"eager": [1.0]}, left_out={"ours": "absent"}), "beside"))
    third.rows_of(case_of(lambda: Measured({"eager": [1.0]}, wrong={"ours": "odd"}), "odd"))
    assert read(third.path).about["commit"] == "a, b", "of all that measured"
    late = new_record(tmp_path, resume=True, minutes=0.0)
    for key in ("beside", "odd"):
        rows = late.rows_of(case_of(measure("eager", "ours"), key))
        assert [row.get("median_ms") for row in rows] == [1000.0, None], "no time is left, and nothing is lost"
    fourth = new_record(tmp_path, resume=True)
    for key in ("beside", "odd"):
        fourth.rows_of(case_of(measure("eager", "ours"), key))
    assert len(calls) == 3, "what is wrong is measured again, what cannot run is not"
    with pytest.raises(ValueError, match="its rounds was 11, not 5"):
        new_record(tmp_path, resume=True, rounds=5)


def test_a_race_times_only_what_is_right() -> None:
    """That a compiler fails is no finding about the candidates; whatever else fails is."""

    def refuse(error: Exception) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            raise error

        return prepare

    entries = {
        "ours": lambda: lambda: None,
        "wrong": refuse(Wrong("off by 1")),
        "late": refuse(LeftOut("late")),
        "P0 compiled": refuse(RuntimeError("no compiler")),
        "broken": refuse(RuntimeError("no memory")),
    }
    found = race(Settings(device="cpu", rounds=3), entries, round_seconds=0.0)
    assert found.samples.keys() == {"ours"}
    assert found.left_out == {"late": "late", "P0 compiled": "it failed: RuntimeError: no compiler"}
    assert found.wrong == {"wrong": "off by 1", "broken": "it failed: RuntimeError: no memory"}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    about = {"suite": "micro", "versions": {"torch": "2"}, "compile_mode": None, "note": 'a "b": # c, ü'}
    rows = [
        {"case": "a, b", "batch": 1, "share": 1 / 3, "candidate": "x", "median_ms": 1e-7},
        {"case": 'c "d" [e]', "batch": -2, "share": 2.5, "candidate": "1x1", "wrong": "# no\u2028number"},
    ]
    path = tmp_path / "micro.csv"
    results.write(path, about, rows)
    found = read(path)
    assert found.about == about
    assert [dict(row) for row in found.rows] == [{**rows[0], "share": 0.333333}, rows[1]]
    for text, said in (("a,b\n1,2\n", "header names none"), ("# a: {\n", "not '# name: JSON'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.csv")


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


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_problems_are_the_models(name: str) -> None:
    frozen = problems.frozen_problems([name], 1, torch.float32, "cpu")
    assert problems.find_problems(name) == {problem: met[name] for problem, met in frozen}


def test_frozen_problems_at_other_batches() -> None:
    one, five = (
        [problem for problem, _ in problems.frozen_problems(MODELS, batch, torch.float32, "cpu")] for batch in (1, 5)
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


def result(suite: str, scale: float = 1.0) -> Result:
    """A sample of a suite's results."""
    draw = random.Random(0)
    at = {"dtype": "float32", "batch": 1}
    rows: list[Row] = []

    def add(case: str, names: list[str], **about: Any) -> None:
        for name in names:
            ms = draw.uniform(1.0, 2.0) * scale
            times = {"median_ms": ms, "q1_ms": 0.98 * ms, "q3_ms": 1.02 * ms, "rounds": 11}
            rows.append({"case": case, **about, "candidate": name, **times})
        rows.append({"case": case, **about, "candidate": "ours", "wrong": "its error of [1e-1] is above the bound"})
        rows.append({"case": case, **about, "candidate": "P0 late", "left_out": "time is up"})

    timed = {
        "blocks": ["baseline", "accelerated", "pruned", "merged", "merged accelerated"],
        "models": ["P0 eager", "P0 compiled", "P0 accelerated", "P3 eager", "P3 accelerated"],
        "engines": ["P0 eager", "P0 inductor", "P0 modules", "P0 auto", "P6 auto"],
    }
    for index, model in enumerate(MODELS):
        if suite == "micro":
            for n in (4, 6):
                names = ["eager", "compiled", "vendor:epilogue", "onednn:matmul"]
                add(f"operator {index} {n}", names, operator=f"operator {index}", flops=10**n, bytes=10**4, **at)
        elif suite in timed:
            about = {"model": model, "block": "blocks.1", "form": "full/conv", "size": 224, "peak_memory_mb": 100.0}
            add(f"{model} 1", timed[suite], **about, **at)
        elif suite == "fading":
            for epochs in (1, 3):
                about = {"model": model, "data": "d", "seed": 0, "epochs": epochs, "lr": 1e-3, "steps": 10 * epochs}
                add(f"{model} {epochs}", list(ARMS), baseline=0.9, pruned=4, blocks=8, **about)
                for row in rows[-2 - len(ARMS) : -2]:
                    row.update(accuracy=draw.uniform(0.7, 0.9))
        elif suite.startswith("field"):
            for method in ("updp", "dp"):
                asked = {"method": method, "share": 0.5, "seed": 0, "data": "d", "epochs": 3}
                add(f"{model} {method}", ["baseline", "pruned"], model=model, family="vit", **asked)
                for row in rows[-4:-2]:
                    row.update(accuracy=0.8, pruned=4, blocks=8)
    if suite == "paper":
        known = {"speedup": 1.2, "samples_per_sec": 10.0, "param_count": 5.0, "gmacs": 1.0}
        add("ConvNeXt b128", ["swin eager", "convnext P3 eager"], table="ConvNeXt", **known)
    about = {"suite": suite, "device": "a-cpu", "threads": 2, "versions": {"torch": "2"}, "commit": "c"}
    return Result(about, rows)


def keep(path: Path, found: Result) -> Path:
    results.write(path, found.about, found.rows)
    return path


def shown(table: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("suite", PICTURES)
def test_tables_and_pictures(suite: str, tmp_path: Path) -> None:
    keep(tmp_path / f"{suite}.csv", result(suite))
    found = CliRunner().invoke(app, ["pictures", str(tmp_path), "--suites", suite])
    assert found.exit_code == 0, found.output
    assert (tmp_path / f"{suite}.png").read_bytes().startswith(b"\x89PNG")
    grids = (SUITES | STUDIES)[suite].tables(result(suite).rows)
    for text in ("".join(shown(grid.to_rich()) for grid in grids), "".join(grid.to_markdown() for grid in grids)):
        assert "its error of [1e-1] is above the bound" in text
        assert "time is up" in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/field_*.png")), ids=lambda path: path.stem)
def test_few_colours_still_tell_methods_apart(path: Path) -> None:
    methods = {row["method"] for row in results.read(path.with_suffix(".csv")).rows}
    looks = {tuple(FIELD_STYLES[method][part] for part in ("color", "marker", "mfc")) for method in methods}
    assert len(looks) == len(methods)
    with Image.open(path) as picture:
        there = [color for _, color in picture.convert("RGB").getcolors(1 << 16)]
    for color in {color for color, *_ in looks}:
        wanted = ImageColor.getrgb(color)
        assert min(max(abs(a - b) for a, b in zip(wanted, each, strict=True)) for each in there) < 16


@pytest.mark.parametrize("name", [*SUITES, *STUDIES])
def test_tables_of_nothing(name: str) -> None:
    """A run that was given no time has nothing but reasons; its tables still tell them."""
    row = {"case": "a", "candidate": "P0 eager", "left_out": "the 0 minutes are up", "part": "models"}
    about = dict.fromkeys(("model", "dtype", "operator", "epochs", "lr", "scope", "importance"), "x")
    row |= {**about, "batch": 1, "lr": 1e-3, "amount": 0.5, "pruned": 1, "blocks": 2}
    grids = (SUITES | STUDIES)[name].tables([row])
    assert "the 0 minutes are up" in "".join(grid.to_markdown() for grid in grids)


def test_results_kept_here() -> None:
    """Each names its suite and a command that exists, and where it was measured; together they are small."""
    found = results.stored()
    assert found.keys() <= SUITES.keys() | STUDIES.keys()
    for suite, devices in found.items():
        for device, kept in devices.items():
            assert kept.about["suite"] == suite
            assert kept.about["device"] == device
            assert {"commit", "versions"} <= kept.about.keys()
            for command in kept.about["command"].split(" && "):
                words = shlex.split(command)
                assert words[:4] == ["python", "-m", "benchmarks", suite]
                asked = CliRunner().invoke(app, [suite, *words[4:], "--help"])
                assert asked.exit_code == 0, asked.output
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".csv", ".png"}
    assert sum(path.stat().st_size for path in files) < 1_000_000


def test_the_page_is_made_from_the_results() -> None:
    text = page.make_page()
    assert page.PATH.read_text(encoding="utf-8") == text, "python -m benchmarks page writes it again"
    assert page.SECTIONS.keys() == SUITES.keys() | STUDIES.keys()
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (page.PATH.parent / picture).exists()


def test_compare(tmp_path: Path) -> None:
    before = keep(tmp_path / "before.csv", result("models"))
    halved = result("models", scale=0.5)
    rows = [dict(row) for row in halved.rows]
    rows[0] |= {"q1_ms": 0.1, "q3_ms": 9.0}
    after = keep(tmp_path / "after.csv", Result({**halved.about, "commit": "d"}, rows))
    found = CliRunner().invoke(app, ["compare", str(before), str(after)]).output
    assert "2.000×" in found
    assert "20 in common: 19 faster, 0 slower, 1 within noise; geometric mean 2.000×" in found
    assert "commit differ: c, then d" in found
    same = CliRunner().invoke(app, ["compare", str(before), str(before)]).output
    assert "20 in common: 0 faster, 0 slower, 20 within noise" in same
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(result("micro"), result("models"))
    found = CliRunner().invoke(app, ["compare", str(before), str(tmp_path / "none.csv")])
    assert "cannot be read" in str(found.exception)
