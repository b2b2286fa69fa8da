"""`make TORCH=system`: the torch that is there is used, and nothing of ours installs another over it."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

import updp_rt
from updp_rt import _system_torch

ROOT = Path(updp_rt.__file__).parents[1]


def _make(*words: str) -> str:
    command = ["make", "--dry-run", "--always-make", *words, "setup"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_torch_is_never_installed_over_the_one_there(tmp_path: Path) -> None:
    place = f"VENV={tmp_path}"
    assert "install --quiet --disable-pip-version-check -r requirements.txt" in _make(place)
    installing = f"-r {tmp_path}/requirements.txt -c {tmp_path}/constraints.txt"
    said = _make(place, "TORCH=system")
    assert installing in said
    assert "-r requirements.txt" not in said
    (tmp_path / "constraints.txt").touch()  # an environment once made so is kept so
    assert installing in _make(place)


def test_the_environment_sees_the_torch_it_is_made_from(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    _system_torch.prepare(tmp_path, ROOT / "requirements.txt")
    asked = (ROOT / "requirements.txt").read_text().splitlines()
    left = (tmp_path / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in set(asked) - set(left)} == set(_system_torch.KEPT)
    assert f"torch=={metadata.version('torch')}\n" in (tmp_path / "constraints.txt").read_text()
    code = "from importlib.metadata import version; print(version('torch'), version('triton'))"
    done = subprocess.run([tmp_path / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [metadata.version("torch"), metadata.version("triton")]


def test_rocm_s_triton_is_kept_under_its_own_name(rocm: object, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    _system_torch.prepare(tmp_path, ROOT / "requirements.txt")
    kept = (tmp_path / "constraints.txt").read_text().splitlines()
    assert {"torch==2.13.0+rocm7.2", "triton-rocm==3.7.1"} <= set(kept)


def test_without_a_torch_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"cannot import torch .*make PYTHON="):
        _system_torch.prepare(tmp_path, ROOT / "requirements.txt")
