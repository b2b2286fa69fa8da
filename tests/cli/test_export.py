"""``updp-rt export``: from a saved folder, a run's, and timm's name, to a file that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import updp_rt
from tests.cli.test_cli import run
from tests.deployment.conftest import small_resnet
from tests.marks import slow

SIZE = ("--img-size", "32")


@pytest.mark.parametrize("format", [slow("pt2"), slow("onnx")])
def test_export(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    updp_rt.save(small_resnet(), tmp_path / "saved")
    status, out, _ = run("export", "saved", "--format", format, *SIZE)
    assert status == 0
    lines = out.splitlines()
    opset = ", opset 20" if format == "onnx" else ""
    assert lines[0].startswith(f"saved.{format}: {format}{opset}, 0.")
    assert lines[1] == "images: batchx3xheightxwidth, float32"
    where = " in ONNX Runtime" if format == "onnx" else ""
    assert f"compared with float64{where} on 1x3x32x32, 2x3x32x32, 5x3x32x32, 2x3x48x64: error" in out
    assert lines[-1].startswith("needs: ")
    assert (tmp_path / f"saved.{format}").is_file()


@pytest.mark.slow
def test_a_timm_model_and_a_run_s_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    updp_rt.save(small_resnet(), tmp_path / "run" / "merged")
    for model, dtype in ((str(tmp_path / "run"), "bfloat16"), ("test_resnet", "float32")):
        path = tmp_path / "out.pt2"
        options = ("--format", "pt2", "--out", str(path), "--dtype", dtype, "--json")
        status, out, error = run("export", model, *SIZE, *options)
        assert status == 0, error
        assert json.loads(out)["dtype"] == dtype
        run_it = torch.export.load(path).module()
        assert len(run_it(torch.randn(3, 3, 32, 32, dtype=getattr(torch, dtype)))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "tflite"), "--format takes onnx, pt2, aoti, not 'tflite'"),
        (("--format", "pt2", "--out", "model.onnx"), "model.onnx: a file of format pt2 ends in .pt2: name it so"),
        (("--format", "pt2", "--keep-kernels"), "pt2 holds standard operators only"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run("export", "test_resnet", *SIZE, *arguments)
    assert status == 2
    assert message in error
    assert not list(tmp_path.iterdir())
