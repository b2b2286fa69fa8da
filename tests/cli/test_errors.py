"""What is said of wrong arguments: at once, by the option's own name, with what would be right."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import updp_rt
from tests.cli.test_cli import run
from updp_rt.cli import common
from updp_rt.runtime import AccelerationError

PRUNE = ("prune", "resnet18", "--checkpoint", "no.pt")

AT_ONCE = [
    (("verify",), "name a model's folder, or give --check CERT"),
    (("demo", "--model", "resnet50"), "the demo runs deit_tiny_patch16_224, "),
    (("demo", "--data", "fashion-mnist", "--model", "resnet34"), "the demo runs small_resnet, "),
    (("demo", "--data", "photos/"), "the demo takes digits, fashion-mnist or idx/FOLDER"),
    (("prune", "--bogus"), "No such option"),
    (("prune", "resnet18", "--num-pruned", "two"), "num-pruned"),
    (("prune", "resnet18", "--num-pruned", "2"), "give --pretrained or --checkpoint FILE"),
    ((*PRUNE, "--num-pruned", "2"), "no.pt: no such checkpoint"),
    ((*PRUNE, "--num-pruned", "2", "--stage", "some"), "--stage takes all, supernet, search, train, merge"),
    ((*PRUNE, "--max-latency", "2"), "--max-latency: input should be less than 1, not 2.0"),
    ((*PRUNE, "--num-pruned", "2", "--set", "bogus=1"), "--set bogus: no such setting; there are num_pruned, "),
    ((*PRUNE, "--num-pruned", "2", "--set", "epoch=1"), "--set epoch: no such setting; did you mean epochs? "),
    ((*PRUNE, "--num-pruned", "2", "--set", "ramp=3"), "--set ramp: input should be less than 1, not '3'"),
    ((*PRUNE, "--num-pruned", "2", "--img-size", "big"), "'big' is not an image size"),
    (("compare", "small_resnet", "--methods", "updp", "--num-pruned", "x"), "--num-pruned takes numbers separated by"),
    (("compare", "small_resnet", "--methods", "updp", "--shard", "3/2"), "--shard takes a part such as 1/2, not '3/2'"),
    (("compare", "small_resnet", "--methods", "updp", "--set", "epoch=1"), "did you mean epochs? "),
    (("verify", "test_vit", "--dtype", "int8"), "--dtype takes float32"),
    (("verify", "test_vit", "--device", "tpu"), "--device takes cpu, cuda or auto, not 'tpu'"),
    (("channels", "test_vit", "--limit", "fc"), "--limit takes PATTERN=SHARE"),
    (("verify", "runs/nothing"), "runs/nothing: no such folder"),
    (("explain", "./nothing"), "./nothing: no such folder"),
    (("explain", "a.safetensors"), "a.safetensors: no such file"),
    (("inspect", "models/resnet18"), "models/resnet18: no such folder"),
    (("report", "runs/nothing"), "runs/nothing: no such folder"),
    (("explain", "deit_tiny_patch16_22"), "perhaps one of: deit_tiny_patch16_224"),
    (
        ("check", "mobilnetv2_100.ra_in1k"),
        "timm knows no model 'mobilnetv2_100.ra_in1k'; perhaps one of: mobilenetv2_1",
    ),
    (
        ("verify", "nothing_like_it_at_all"),
        "timm knows no model 'nothing_like_it_at_all'; timm.list_models() names all",
    ),
    (("prune", "resnte18", "--num-pruned", "2", "--pretrained"), "perhaps one of: resnet18"),
    (("profile", ".", "--dtype", "int8"), "--dtype takes float32"),
    (("train", "resnet18", "--set", "epoch=1"), "--set epoch: no such setting; did you mean epochs? "),
    (("check", "resnet18", "--dtype", "int8"), "--dtype takes float64 or float32"),
    (("check", "resnet18", "--prune", "some"), "--prune takes 'all' or a number"),
]


def test_wrong_arguments_are_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    code = """
import contextlib, io, json, sys
from updp_rt.cli import app
found = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            app(arguments)
        except SystemExit as end:
            status = end.code
    found.append([status, said.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""
    arguments = json.dumps([given for given, _ in AT_ONCE])
    command = [sys.executable, "-c", code, arguments]
    env = os.environ | {"PYTHONPATH": str(Path(updp_rt.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
    for (given, message), (status, said, loaded) in zip(AT_ONCE, json.loads(done.stdout), strict=True):
        assert (status, loaded) == (2, False), given
        assert message in said, given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "resnte18"), "timm knows no model 'resnte18'; perhaps one of: resnet18"),
        (("check", "mobilnetv2_100"), "perhaps one of: mobilenetv2_100"),
        (("explain", "deit_tiny_patch16_22"), "perhaps one of: deit_tiny_patch16_224"),
        (
            ("inspect", "test_vit", "--img-size", "40"),
            "takes images whose edges are multiples of 16, not 40x40",
        ),
        (("inspect", "nothing_like_it_at_all"), "timm.list_models()"),
        (("inspect", "resnet18.no_such_weights"), "cannot create resnet18.no_such_weights: Invalid pretrained tag"),
    ],
)
def test_names_are_answered_with_the_nearest(arguments: tuple[str, ...], message: str) -> None:
    status, _, error = run(*arguments)
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_none_of_ours_is_no_model_name(tmp_path: Path) -> None:
    status, _, error = run("explain", str(tmp_path))
    assert status == 2
    assert "neither the folder of a pruning run (run.json) nor of a saved model (manifest.json)" in error
    (tmp_path / "weights.pt").touch()
    status, _, error = run("explain", str(tmp_path / "weights.pt"))
    assert status == 2
    assert "weights.pt: a file; give a timm model or a folder that updp-rt wrote" in error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), "x.json: No space left on device; free some, or "),
        (PermissionError(errno.EACCES, "Permission denied", "x.json"), "x.json: Permission denied"),
        (EOFError("No data left in file"), "No data left in file"),
        (EOFError(), "EOFError"),
        (AccelerationError("no kernel does it"), "no kernel does it"),
    ],
)
def test_failing_files_are_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object) -> None:
        raise error

    monkeypatch.setattr("updp_rt.cli.models.print_json", fail)
    status, _, said = run("info", "--json")
    assert status == 2
    assert said.startswith(f"updp-rt: {line}")
    assert len(said.splitlines()) == 1


def test_errors_of_the_code_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("updp_rt.cli.models.print_json", fail)
    with pytest.raises(KeyError):
        CliRunner().invoke(updp_rt.cli.app, ["info", "--json"], catch_exceptions=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_under_the_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left on device"):
            common.print_json({"all": "of it"})
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):  # what was not written is tried again when it closes
            full.close()
