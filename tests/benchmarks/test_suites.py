"""The suites through their commands, on the smallest models: what they write, and what they refuse to."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks import common, rotation, variants
from benchmarks import test_micro as micro_suite
from benchmarks import test_paper as paper_suite
from benchmarks.commands import app
from updp_rt.backends import Kernel, Problem, Weights
from updp_rt.runtime.table import forget_tables

CHECKOUT = Path(__file__).parents[2]
QUICK = ["--device", "cpu", "--num-bench-iter", "3", "--num-warm-iter", "1", "--torchcompile", "none"]


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


def run(suite: str, out: Path, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Rows of a suite run in this process."""
    found = CliRunner().invoke(app, [suite, "--out", str(out), *options])
    assert found.exit_code == code, found.output
    return json.loads((out / f"{suite}.json").read_text())["rows"]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_sound(row: dict[str, Any], names: set[str]) -> None:
    assert not row["red"]
    assert row["candidates"].keys() == names
    for value in row["candidates"].values():
        assert 0 < value["q1_ms"] <= value["median_ms"] <= value["q3_ms"]
        assert value["rounds"] == 3


def test_micro(tmp_path: Path) -> None:
    """As a user calls it; pytest-benchmark's own file holds the very same times."""
    command = [sys.executable, "-m", "benchmarks", "micro", *QUICK, "--out", str(tmp_path), "--batch-size", "2"]
    command += ["--precision", "float32", "--", "-k", "linear-2x192", "--benchmark-json", str(tmp_path / "theirs.json")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1  linear 2x192" in done.stdout
    stored = json.loads((tmp_path / "micro.json").read_text())
    assert {"device", "threads", "versions", "commit", "environment"} <= stored.keys()
    (row,) = stored["rows"]
    own = {"vendor:packed"} if torch.backends.mkl.is_available() else set()
    assert_sound(row, {"eager", "vendor:epilogue", "onednn:matmul"} | own)
    assert "deit_tiny_patch16_224 P0" in row["met"]
    assert [line["candidate"] for line in read_csv(tmp_path / "micro.csv")] == list(row["candidates"])
    theirs = {b["params"]["candidate"]: b for b in json.loads((tmp_path / "theirs.json").read_text())["benchmarks"]}
    for name, value in row["candidates"].items():
        assert theirs[name]["stats"]["median"] * 1e3 == pytest.approx(value["median_ms"], rel=1e-4)
        assert theirs[name]["group"] == row["case"]


def test_a_wrong_kernel_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = micro_suite.prepare

    def half_right(name: str, problem: Problem, weights: Weights) -> Kernel:
        kernel = prepare(name, problem, weights)

        def wrong(x: Tensor, other: Tensor | None) -> Tensor:
            y = kernel(x, other)
            y.view(-1)[-1] += 1.0
            return y

        return wrong if name.startswith("vendor") else kernel

    monkeypatch.setattr(micro_suite, "prepare", half_right)
    options = [*QUICK, "--batch-size", "2", "--precision", "float32", "--", "-k", "linear-2x192"]
    (row,) = run("micro", tmp_path, *options, code=1)
    assert row["candidates"].keys() == {"eager", "onednn:matmul"}
    assert "above the bound" in row["red"]["vendor:epilogue"]
    (withheld,) = (line for line in read_csv(tmp_path / "micro.csv") if line["candidate"] == "vendor:epilogue")
    assert "above the bound" in withheld["withheld"]
    assert not withheld["median_ms"]


def test_blocks(tmp_path: Path) -> None:
    options = ["--model", "test_vit,test_resnet", "--img-size", "64", "--batch-size", "1", "--precision", "float32"]
    rows = run("blocks", tmp_path, *options, *QUICK)
    assert {row["model"] for row in rows} == {"test_vit", "test_resnet"}
    for row in rows:
        assert_sound(row, {"baseline", "accelerated", "pruned", "merged", "merged accelerated"})
        assert row["form"]


def test_models(tmp_path: Path) -> None:
    """Flags and columns of timm's benchmark.py, peak memory, and variants that a model has no blocks for."""
    options = ["-m", "test_resnet", "-b", "2", "--img-size", "32", "--precision", "float32", "--pruned", "1,9"]
    (row,) = run("models", tmp_path, *options, *QUICK, "--results-file", str(tmp_path / "timm.csv"))
    assert_sound(row, {"P1 eager", "P1 accelerated"})
    assert row["left_out"].keys() == {"P9 eager", "P9 accelerated"}
    for value in row["candidates"].values():
        assert value["peak_memory_mb"] > 1
    lines = read_csv(tmp_path / "timm.csv")
    first, *columns = lines[0]
    assert first == "model"
    assert columns[:7] == [
        *(f"infer_{name}" for name in ("samples_per_sec", "step_time", "batch_size", "img_size", "gmacs", "macts")),
        "param_count",
    ]
    speed = 2e3 / row["candidates"]["P1 eager"]["median_ms"]
    assert float(lines[0]["infer_samples_per_sec"]) == pytest.approx(speed, rel=1e-3)
    assert "blocks can be pruned" in lines[-1]["withheld"]


def test_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_suite, "SIZE", 64)
    options = [option for option in QUICK if option not in ("--torchcompile", "none")]
    options += ["-m", "deit_tiny_patch16_224,mobilenetv2_140", "-b", "1", "--pruned", "0,1"]
    peers, ours = run("paper", tmp_path, *options)
    assert_sound(peers, {"mobilenetv2_140 eager"})
    names = {f"deit_tiny_patch16_224 {variant} {mode}" for variant in ("P0", "P1") for mode in ("eager", "accelerated")}
    assert_sound(ours, names)
    eager = [value for name, value in ours["candidates"].items() if name.endswith("eager")]
    slowest = max(value["median_ms"] for value in eager)
    for value in ours["candidates"].values():
        assert value["speedup"] == pytest.approx(slowest / value["median_ms"], rel=2e-3)
        assert value["samples_per_sec"] == pytest.approx(1e3 / value["median_ms"], rel=1e-2)


def test_nothing_to_measure_and_nothing_to_resume(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["micro", "--out", str(tmp_path), "--model", "no_such_model"])
    assert found.exit_code not in (0, 1)
    assert "there is nothing to measure" in found.output
    (tmp_path / "micro.json").write_text('{"environment": "another"}')
    options = [*QUICK, "--out", str(tmp_path), "--resume", "--precision", "float32", "--", "-k", "linear-1x192"]
    found = CliRunner().invoke(app, ["micro", *options])
    assert found.exit_code not in (0, 1)
    assert "micro.json cannot be resumed: its environment was another" in found.output


@torch.inference_mode()
def test_a_wrong_model_is_seen() -> None:
    model, images = nn.Linear(5, 3), torch.randn(4, 5)
    assert variants.why_model_is_wrong(model, model, images) is None
    for offset in (1e-3, torch.nan):
        assert variants.why_model_is_wrong(lambda x: model(x) + offset, model, images) is not None
    exact = torch.randn(2, 3, dtype=torch.float64)
    plain = torch.cat([torch.full((3, 3), 9.0), exact.float()])  # only the last elements are compared
    assert common.why_wrong(plain.clone(), plain, exact, 5) is None
    for offset in (1e-5, torch.nan):
        wrong = plain.clone()
        wrong[-1, -1] += offset
        assert "off by" in (common.why_wrong(wrong, plain, exact, 5) or "")
    assert common.longest_sum(nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Linear(8, 2))) == 75
    vit = timm.create_model("test_vit")  # whose positional embedding is longer than any sum
    assert common.longest_sum(vit) == 3 * 16 * 16 < vit.pos_embed[0].numel()
    assert variants.why_not_merged(exact, exact) is None
    assert "off by" in (variants.why_not_merged(exact, exact + 1e-9) or "")
    assert variants.why_not_merged(exact, exact * torch.nan) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "many"], "numbers separated by commas"),
        (["--precision", "float8"], "unknown precision"),
        (["--device", "tpu"], "cpu or cuda"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["micro", *options], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert said in found.output
