"""The suites through their commands, on the smallest models: what they write, and what they refuse to."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks import numerics, operators, results, rotation
from benchmarks.commands import STUDIES, SUITES, app
from benchmarks.protocol import Record, Suite, Wrong
from benchmarks.results import Result, Row, read
from benchmarks.settings import Settings
from benchmarks.studies import channels_accuracy, images, progressive_vs_direct
from benchmarks.suites import channels_speed, memory, merged_speed, paper
from updp_rt.backends import Prepared
from updp_rt.ops import Problem, Weights
from updp_rt.pruning import baseline
from updp_rt.runtime.table import forget_tables

CHECKOUT = Path(__file__).parents[2]
QUICK = ["--device", "cpu", "--num-bench-iter", "3", "--num-warm-iter", "1", "--torchcompile", "none"]
TWO = ["--batch-size", "2", "--precision", "float32"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tuned tables go to a folder of the test, and pytest-benchmark does not see the workers around it."""
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rotation, "cache_bytes", lambda device: 1 << 20)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    forget_tables()
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before
    forget_tables()


def run(suite: str, out: Path, *options: str, code: int = 0) -> Result:
    """The result of a suite run in this process."""
    found = CliRunner().invoke(app, [suite, "--out", str(out), *options])
    assert found.exit_code == code, found.output
    return read(out / f"{suite}.csv")


def by_candidate(rows: Sequence[Row]) -> dict[str, Row]:
    """The rows of one case."""
    assert len({row["case"] for row in rows}) == 1
    return {row["candidate"]: row for row in rows}


def assert_sound(rows: Sequence[Row], names: set[str]) -> None:
    """Every case has these candidates, each with its times."""
    for case in {row["case"] for row in rows}:
        assert {row["candidate"] for row in rows if row["case"] == case} == names
    for row in rows:
        assert "wrong" not in row
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
        assert row["rounds"] == 3


@pytest.mark.slow
def test_micro(tmp_path: Path) -> None:
    """As a user calls it; pytest-benchmark's own file holds the very same times."""
    command = [sys.executable, "-m", "benchmarks", "micro", *QUICK, "--out", str(tmp_path), *TWO]
    command += ["--", "-k", "linear-2x192", "--benchmark-json", str(tmp_path / "theirs.json")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1  linear 2x192" in done.stdout
    about, rows = (result := read(tmp_path / "micro.csv")).about, by_candidate(result.rows)
    assert {"device", "threads", "versions", "commit", "environment"} <= about.keys()
    assert set(shlex.split(about["command"])) == {"python", "-m", "benchmarks", "micro", *QUICK, *TWO}
    own = {"vendor:packed"} if torch.backends.mkl.is_available() else set()
    assert_sound(result.rows, {"eager", "vendor:epilogue", "onednn:matmul"} | own)
    assert "deit_tiny_patch16_224 P0" in rows["eager"]["met"]
    theirs = {b["params"]["candidate"]: b for b in json.loads((tmp_path / "theirs.json").read_text())["benchmarks"]}
    for name, row in rows.items():
        assert theirs[name]["stats"]["median"] * 1e3 == pytest.approx(row["median_ms"], rel=1e-4)
        assert theirs[name]["group"] == row["case"]


def test_a_wrong_kernel_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = operators.prepare

    def half_right(name: str, problem: Problem, weights: Weights) -> Prepared:
        kernel = prepare(name, problem, weights)

        def wrong(x: Tensor, other: Tensor | None) -> Tensor:
            y = kernel(x, other)
            y.view(-1)[-1] += 1.0
            return y

        return wrong if name.startswith("vendor") else kernel

    monkeypatch.setattr(operators, "prepare", half_right)
    rows = by_candidate(run("micro", tmp_path, *QUICK, *TWO, "--", "-k", "linear-2x192", code=1).rows)
    assert {name for name, row in rows.items() if "median_ms" in row} == {"eager", "onednn:matmul"}
    assert "above the bound" in rows["vendor:epilogue"]["wrong"]


@pytest.mark.slow
def test_blocks(tmp_path: Path) -> None:
    options = ["--model", "test_vit,test_resnet", "--img-size", "64", "--batch-size", "1", "--precision", "float32"]
    rows = run("blocks", tmp_path, *options, "--engines", "none", *QUICK).rows
    assert {row["model"] for row in rows} == {"test_vit", "test_resnet"}
    assert_sound(rows, {"baseline", "accelerated", "pruned", "merged", "merged accelerated"})
    assert all(row["form"] for row in rows)


@pytest.mark.slow
def test_models(tmp_path: Path) -> None:
    """Flags and columns of timm's benchmark.py, peak memory, and variants that a model has no blocks for."""
    options = ["-m", "test_resnet", "-b", "2", "--img-size", "32", "--precision", "float32", "--pruned", "1,9"]
    options += ["--engines", "none"]
    result = run("models", tmp_path, *options, *QUICK, "--results-file", str(tmp_path / "timm.csv"))
    rows = by_candidate(result.rows)
    measured = [rows.pop(name) for name in ("P1 eager", "P1 accelerated")]
    assert_sound(measured, {"P1 eager", "P1 accelerated"})
    assert all(row["peak_memory_mb"] > 1 for row in measured)
    assert rows.keys() == {"P9 eager", "P9 accelerated"}
    assert all("blocks can be pruned" in row["left_out"] for row in rows.values())
    with (tmp_path / "timm.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    first, *columns = lines[0]
    assert first == "model"
    assert columns[:7] == [
        *(f"infer_{name}" for name in ("samples_per_sec", "step_time", "batch_size", "img_size", "gmacs", "macts")),
        "param_count",
    ]
    assert float(lines[0]["infer_samples_per_sec"]) == pytest.approx(2e3 / measured[0]["median_ms"], rel=1e-3)
    assert "blocks can be pruned" in lines[-1]["left_out"]


@pytest.mark.slow
def test_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "SIZE", 64)
    options = [option for option in QUICK if option not in ("--torchcompile", "none")]
    options += ["-m", "deit_tiny_patch16_224,mobilenetv2_140", "-b", "1", "--pruned", "0,1", "--engines", "openvino"]
    rows = run("paper", tmp_path, *options).rows
    peers, ours = ([row for row in rows if row["table"] == table] for table in ("ConvNeXt", "DeiT"))
    assert_sound(peers, {"mobilenetv2_140 eager", "mobilenetv2_140 openvino"})
    modes = ("eager", "accelerated", "openvino")
    assert_sound(ours, {f"deit_tiny_patch16_224 {variant} {mode}" for variant in ("P0", "P1") for mode in modes})
    slowest = max(row["median_ms"] for row in ours if row["candidate"].endswith("eager"))
    for row in ours:
        assert row["speedup"] == pytest.approx(slowest / row["median_ms"], rel=2e-3)
        assert row["samples_per_sec"] == pytest.approx(1e3 / row["median_ms"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["models", "blocks"])
def test_other_runtimes_are_columns(suite: str, tmp_path: Path) -> None:
    options = [*QUICK, "-m", "test_vit", "-b", "2", "--precision", "float32", "--img-size", "64"]
    options += ["--engines", "openvino"] + ["--pruned", "0,1"] * (suite == "models")
    found = run(suite, tmp_path, *options)
    forms = {"models": ("P0 openvino", "P1 openvino"), "blocks": ("openvino", "merged openvino")}[suite]
    assert {row["candidate"] for row in found.rows if "median_ms" in row} >= set(forms)
    assert any("openvino" in grid.to_markdown() for grid in SUITES[suite].tables(found.rows))


@pytest.mark.slow
def test_engines(tmp_path: Path) -> None:
    options = [option for option in QUICK if option not in ("--torchcompile", "none")]
    options += ["-m", "test_vit", "-b", "2", "--precision", "float32", "--img-size", "64", "--pruned", "0,1"]
    rows = by_candidate(run("engines", tmp_path, *options).rows)
    modes = ("eager", "inductor", "onnxruntime", "openvino", "modules", "auto", "torch-only")
    assert_sound(list(rows.values()), {*(f"P0 {mode}" for mode in modes), "P1 auto"})
    assert rows["P0 auto"]["engine"] in ("modules", "compiled", *modes[1:4])
    assert rows["P0 torch-only"]["engine"] in ("modules", "compiled", "inductor")
    assert "migraphx" in rows["P0 auto"]["refused"]


@pytest.mark.slow
def test_merged_speed(tmp_path: Path) -> None:
    options = [option for option in QUICK if option not in ("--torchcompile", "none")]
    options += ["-m", "test_vit", "-b", "2", "--img-size", "64"]
    rows = run("merged_speed", tmp_path, *options).rows
    wanted = {f"{variant} {where}" for variant in ("baseline", "merged") for where in ("eager", "compiled", "exported")}
    assert_sound(rows, wanted)
    assert {row["pruned"] for row in rows} == {rows[0]["blocks"] // 2}


@pytest.mark.slow
def test_an_export_that_computes_something_else_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_speed, "run_exported", lambda source, images: lambda x: source(x) * 1.001)
    options = [option for option in QUICK if option not in ("--torchcompile", "none")]
    options += ["-m", "test_vit", "-b", "2", "--img-size", "64", "--pruned", "1,9"]
    rows = run("merged_speed", tmp_path, *options, code=1).rows
    found = by_candidate([row for row in rows if row["case"].endswith("P1")])
    timed = {f"{variant} {where}" for variant in ("baseline", "merged") for where in ("eager", "compiled")}
    assert {name for name, row in found.items() if "median_ms" in row} == timed
    assert all("off by" in found[f"{name} exported"]["wrong"] for name in ("baseline", "merged"))
    assert all("blocks can be pruned" in row["left_out"] for row in rows if row["case"].endswith("P9"))


@pytest.mark.slow
def test_channels_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reordering leaves fewer channels to gather than the naive export; the package that is not there is a finding."""
    monkeypatch.setattr(channels_speed, "model_input_size", lambda model: (3, 32, 32))
    options = ["--num-bench-iter", "3", "-m", "resnet10t", "-b", "1", "--upscale", str(tmp_path)]
    rows = by_candidate(run("channels_speed", tmp_path, *options).rows)
    published = rows.pop("apple-upscale")
    assert rows.keys() == {"baseline", "naive", "cheapest", "fewest"}
    assert rows["naive"]["gathered"] > rows["cheapest"]["gathered"] == rows["fewest"]["gathered"] == 0
    assert rows["cheapest"]["export_seconds"] > 0
    assert all(row["median_ms"] > 0 for row in rows.values())
    assert "No module named 'upscale'" in published["left_out"]


@pytest.mark.slow
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(memory, "SIZE", 64)
    (row,) = run("memory", tmp_path, "-m", "test_resnet", "--precision", "float32").rows
    assert row["weights_bytes"] == 4 * sum(p.numel() for p in timm.create_model("test_resnet").parameters())
    assert isinstance(row["added_bytes"], int)


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is trained or fitted, all accuracies are one half; the stages that would have been trained."""
    stages: list[str] = []

    def trained(*args: object, stage: str, **how: object) -> list[dict[str, int]]:
        stages.append(stage)
        return [{"epoch": 1}]

    monkeypatch.chdir(tmp_path)  # where the studies keep their baselines
    for module in (images, baseline):
        monkeypatch.setattr(module, "evaluate", lambda model, loader, **_: 0.5)
        monkeypatch.setattr(module, "fit", trained)
    monkeypatch.setattr(progressive_vs_direct, "calibrate", lambda subnet, images: None)
    monkeypatch.setattr(channels_accuracy, "recalibrate", lambda model, batches: None)
    return stages


def test_progressive_vs_direct(tmp_path: Path, untrained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One case a model and seed, which a resumed run does not train again; its settings are in the rows."""
    budget = progressive_vs_direct.Budget(1, 1e-3, 1, 1e-3)
    monkeypatch.setattr(progressive_vs_direct, "DIGITS", {"resnet10t": budget})
    run("progressive_vs_direct", tmp_path, "-m", "resnet10t", "--seeds", "0")
    assert untrained == ["train", "subnet", "subnet"]
    result = run("progressive_vs_direct", tmp_path, "-m", "resnet10t", "--seeds", "0,1", "--resume")
    assert len(untrained) == 6
    assert [row["candidate"] for row in result.rows] == 2 * ["baseline", "progressive", "direct"]
    assert {row["accuracy"] for row in result.rows} == {0.5}
    assert result.about["command"] == (
        "python -m benchmarks progressive_vs_direct --model resnet10t --seeds 0"
        " && python -m benchmarks progressive_vs_direct --model resnet10t --seeds 0,1 --resume"
    )


def test_channels_accuracy(tmp_path: Path, untrained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One baseline for all measures and shares; what is compared has as many parameters, within a channel or two."""
    monkeypatch.setattr(channels_accuracy, "BUDGETS", {"resnet10t": (1, 1e-3)})
    options = ["-m", "resnet10t", "--seeds", "0", "--importance", "magnitude", "--amounts", "0.3,0.5"]
    rows = run("channels_accuracy", tmp_path, *options).rows
    assert untrained == ["train"]
    assert len(rows) == 2 * 5
    for row in rows:
        if row["candidate"] != "baseline":
            whole = next(other for other in rows if other["case"] == row["case"])["params"]
            assert row["params"] / whole == pytest.approx(1 - row["amount"], abs=0.03)
            assert row["accuracy"] == row["recalibrated"] == 0.5
    channels_accuracy.trained.cache_clear()


@pytest.mark.parametrize("name", [*SUITES, *STUDIES])
def test_every_suite_has_its_command(name: str) -> None:
    found = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    suite: Suite = (SUITES | STUDIES)[name]
    assert suite.help.partition(",")[0] in found.output
    assert {"--out", "--resume", "--minutes"} <= set(found.output.split())
    assert Record(suite, Settings(device="cpu"), lambda line: None).path.name == f"{name}.csv"


@pytest.mark.slow
def test_nothing_to_measure_and_nothing_to_resume(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["micro", "--out", str(tmp_path), "--model", "resnet18"])
    assert found.exit_code not in (0, 1)
    assert "there is nothing to measure" in found.output
    results.write(tmp_path / "micro.csv", {"suite": "micro", "environment": "another"}, [])
    for suite, options in (("micro", ["--", "-k", "linear-1x192"]), ("projection", [])):
        results.write(tmp_path / f"{suite}.csv", {"suite": suite, "environment": "another"}, [])
        found = CliRunner().invoke(app, [suite, "--out", str(tmp_path), "--resume", "--precision", "float32", *options])
        assert found.exit_code not in (0, 1)
        assert f"{suite}.csv cannot be resumed: its environment was another" in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["progressive_vs_direct", "-m", "resnet50"], "unknown model 'resnet50': choose among resnet34"),
        (["channels_accuracy", "--scope", "all"], "unknown scope 'all'"),
        (["channels_accuracy", "--importance", "size"], "unknown measure 'size'"),
        (["channels_accuracy", "--amounts", "0.5,20"], "from 0 to below 1, not 20.0"),
        (["projection", "-m", "mobilenetv2_100"], "unknown model 'mobilenetv2_100'"),
        (["gpu", "--device", "cpu", "--precision", "float16,float32"], "one precision a run"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(command: list[str], said: str, tmp_path: Path) -> None:
    """And no result is replaced by an empty one."""
    found = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert said in found.output
    assert not list(tmp_path.glob("*.csv"))


@torch.inference_mode()
def test_a_wrong_model_is_seen() -> None:
    model, images = nn.Linear(5, 3), torch.randn(4, 5)
    numerics.require_model(model, model, images)
    for offset in (1e-3, torch.nan):
        with pytest.raises(Wrong, match="off by"):
            numerics.require_model(lambda x, offset=offset: model(x) + offset, model, images)
    exact = torch.randn(2, 3, dtype=torch.float64)
    plain = torch.cat([torch.full((3, 3), 9.0), exact.float()])  # only the last elements are compared
    numerics.require_right(plain.clone(), plain, exact, 5)
    for offset in (1e-5, torch.nan):
        wrong = plain.clone()
        wrong[-1, -1] += offset
        with pytest.raises(Wrong, match="off by"):
            numerics.require_right(wrong, plain, exact, 5)
    assert numerics.longest_sum(nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Linear(8, 2))) == 75
    vit = timm.create_model("test_vit")  # whose positional embedding is longer than any sum
    assert numerics.longest_sum(vit) == 3 * 16 * 16 < vit.pos_embed[0].numel()
    numerics.require_merged(exact, exact)
    for other in (exact + 1e-9, exact * torch.nan):
        with pytest.raises(Wrong, match="off by"):
            numerics.require_merged(exact, other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "many"], "numbers separated by commas"),
        (["--precision", "float8"], "unknown precision"),
        (["--device", "tpu"], "cpu or cuda"),
        (["--model", "deit_tiny"], "knows no model 'deit_tiny'; perhaps one of: deit_tiny"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["micro", *options], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert said in found.output
