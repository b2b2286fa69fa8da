"""``updp-rt profile`` and ``updp-rt report`` as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import updp_rt
from tests.pruning.conftest import small_model
from updp_rt.cli import app
from updp_rt.runtime.table import forget_tables


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()
    return updp_rt.save(small_model().eval(), tmp_path / "model")


@pytest.mark.parametrize("command", ["profile", "report"])
def test_help_has_an_example(command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"Example: updp-rt {command}" in re.sub(r"\s+", " ", out)


@pytest.mark.slow
def test_a_report_says_what_is_missing_and_a_profile_fills_it(model: Path) -> None:
    status, out, _ = run("report", str(model))
    assert status == 0
    assert out.startswith(f"report: {model}/report.html")
    assert "missing: block times and roofline. profile.json is not there." in out
    assert "updp-rt profile ." in out
    status, out, _ = run("profile", str(model), "--batch", "2")
    assert status == 0
    assert re.search(r"batch 2, float32, .*: baseline [\d.]+ ms, merged [\d.]+ ms, merged on fused kernels", out)
    status, out, _ = run("report", str(model), "--json", "--out", str(model / "elsewhere.html"))
    assert status == 0
    found = json.loads(out)
    assert found["report"] == str(model / "elsewhere.html")
    assert Path(found["report"]).read_text().startswith("<!DOCTYPE html>")
    assert {gap["part"] for gap in found["missing"]} == {
        "accuracy and cost",
        "search front",
        "training curves",
        "certificate",
    }
    assert all(gap["reason"] for gap in found["missing"])


@pytest.mark.slow
def test_profile_as_json(model: Path) -> None:
    status, out, _ = run("profile", str(model), "--dtype", "bfloat16", "--batch", "1", "--json")
    assert status == 0
    assert json.loads(out) == json.loads((model / "profile.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "."), "neither the folder of a pruning run (run.json) nor of a saved model (manifest.json)"),
        (("report", "nowhere"), "nowhere: no such folder"),
        (("profile", "."), "neither the folder of a pruning run"),
        (("profile", ".", "--dtype", "int8"), "--dtype takes float32, float16, bfloat16, not 'int8'"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
