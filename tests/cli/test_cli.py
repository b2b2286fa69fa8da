"""The commands as a user meets them: output, exit status, errors in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import updp_rt
from tests.pruning.conftest import small_model
from updp_rt.cli import app

COMMANDS = (
    "demo",
    "inspect",
    "channels",
    "check",
    "prune",
    "merge",
    "info",
    "verify",
    "explain",
    "tune",
    "emulate",
    "export",
)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"Example: updp-rt {command}" in re.sub(r"\s+", " ", out)


def test_help_lists_the_commands_and_is_quick_to_import() -> None:
    _, out, _ = run("--help")
    assert all(command in out for command in COMMANDS)
    code = "import sys, updp_rt.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_inspect() -> None:
    status, out, _ = run("inspect", "seresnet18")
    assert status == 0
    assert "squeeze-excite" in out
    status, out, _ = run("inspect", "resnet18", "--json", "--img-size", "96x128")
    report = json.loads(out)
    assert report["input_size"] == [3, 96, 128]
    assert report["prunable"] == len(report["blocks"]) == 8
    assert report["blocks"][0]["merged"]["shrunk/conv"]["params"] == 64 * 64 * 9 + 64


def test_info() -> None:
    _, out, _ = run("info", "--json")
    report = json.loads(out)
    assert report["versions"]["updp_rt"] == updp_rt.__version__
    assert report["families"]["vit"] == "deit_tiny_patch16_224"
    assert report["devices"][0].startswith("cpu")
    _, out, _ = run("info")
    assert "everything runs on the CPU" in out or "GPU" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "resnet_34"), "timm knows no model 'resnet_34'; perhaps one of: "),
        (("inspect", "vgg11"), "belongs to no family that can be pruned. Families: resnet"),
        (("inspect", "resnet18", "--img-size", "big"), "'big' is not an image size; write 224 or 160x192"),
        (("check", "resnet18", "--prune", "some"), "--prune takes 'all' or a number"),
        (("check", "resnet18", "--prune", "99"), "cannot prune 99 blocks: this model has 8"),
        (("check", "resnet18", "--dtype", "int8"), "--dtype takes float64 or float32"),
        (("check", "resnet50"), "no block of this ResNet can be pruned: Bottleneck"),
        (("prune", "resnet18", "--num-pruned", "2"), "give --pretrained or --checkpoint FILE"),
        (("prune", "resnet18", "--pretrained", "--stage", "all of it"), "--stage takes all, supernet"),
        (("prune", "resnet18", "--checkpoint", "no.pt", "--num-pruned", "2"), "no.pt: no such checkpoint"),
        (("prune", "resnet18", "--checkpoint", "no.pt"), "give exactly one of --num-pruned"),
        (("prune", "resnet18", "--checkpoint", "no.pt", "--num-pruned", "2", "--set", "epochs"), "takes NAME=VALUE"),
        (
            ("prune", "resnet18", "--checkpoint", "no.pt", "--num-pruned", "2", "--set", "lrr=1"),
            "did you mean lr? there are num_pruned, ",
        ),
        (("prune", "resnet18", "--pretrained", "--num-pruned", "2", "--data", "nowhere"), "no data set 'nowhere'"),
        (("merge", "nowhere"), "nowhere: not the folder of a pruning run (it has no run.json)"),
        (("demo", "--model", "resnet50"), "the demo runs deit_tiny_patch16_224, "),
    ],
)
def test_errors_are_one_line_with_status_two(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*arguments)
    assert status == 2, error
    assert message in error
    assert error.startswith("updp-rt: ")
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "updp_rt.cli", "inspect", "models/resnet18"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(updp_rt.__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("updp-rt: models/resnet18: no such folder")


SMALL = ("--img-size", "32", "--batch-size", "64", "--epochs", "1", "--set", "supernet_epochs=0", "--trials", "2")


@pytest.mark.slow
def test_prune_stage_by_stage_then_merge_again(tmp_path: Path) -> None:
    weights, folder = tmp_path / "start.safetensors", tmp_path / "run"
    save_file(small_model().state_dict(), weights)
    base = ("prune", "test_vit", "--checkpoint", str(weights), "--num-pruned", "2", "--out", str(folder), *SMALL)
    status, _, error = run(*base, "--stage", "train")
    assert status == 2
    assert "search.json: not there; run the stage that writes it first" in error
    for stage in ("supernet", "search", "train"):
        status, out, _ = run(*base, "--stage", stage, "--json")
        assert status == 0
        assert json.loads(out)["stage"] == stage
    status, out, _ = run(*base)
    assert status == 0
    for row in ("baseline", "pruned subnet", "merged model"):
        assert row in out
    assert "exactly what the subnet does (0 differ)" in re.sub(r"\s+", " ", out)
    status, out, _ = run("merge", str(folder), "--out", str(tmp_path / "again"), "--json")
    assert status == 0
    updp_rt.load(json.loads(out)["folder"])


def test_engines_are_those_of_the_runtime() -> None:
    from updp_rt.cli.options import ENGINES as NAMED
    from updp_rt.runtime.engines import ENGINES

    assert (*ENGINES, "auto") == NAMED


def test_explain_tells_which_kernel_runs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from updp_rt.runtime.table import forget_tables

    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()
    updp_rt.save(small_model().eval(), tmp_path / "model")
    status, out, _ = run("explain", str(tmp_path / "model"), "--batch", "2", "--device", "cpu")
    assert status == 0
    assert "the fastest measured" in out
    assert "accelerated" in out.splitlines()[-1]
    status, out, _ = run("explain", "resnet18", "--img-size", "32", "--device", "cpu", "--json")
    assert status == 0
    found = json.loads(out)
    assert {row["operator"] for row in found["rows"]} == {"conv2d", "linear", "max_pool", "average_pool"}
    assert set(found["model_ms"]) == {"eager", "accelerated"}
    forget_tables()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18", "--dtype", "int8"), "--dtype takes float32, float16, bfloat16, not 'int8'"),
        (("no_such_model",), "timm knows no model"),
        (("resnet18", "--device", "cuda"), "torch sees no GPU here; use --device cpu"),
        (("resnet18", "--engine", "onnx"), "--engine takes modules, compiled, graph, inductor, onnxruntime"),
        (("test_vit", "--engine", "graph", "--device", "cpu"), "graphs are captured on a GPU, and the input is on cpu"),
    ],
)
def test_explain_says_in_one_line_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, _, err = run("explain", *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
