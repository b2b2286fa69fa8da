"""``updp-rt kernels``: compiling ahead of time, and telling what kernels take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from updp_rt.backends import ahead
from updp_rt.kernels.hip import build, compilers, manifest, objects
from updp_rt.kernels.hip.figures import Figures
from updp_rt.kernels.triton.objects import CarriedKernel

FIGURES = Figures(vgprs=96, agprs=64, sgprs=40, spills=0, scratch=0, lds=16384, occupancy=2.0, matrix=32)


class CopyingCompiler(compilers.Compiler):
    def compile(self, source: Path, target: Path) -> str:
        target.write_bytes(source.read_bytes())
        return ""


@pytest.fixture
def _fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear.hip").write_text("code")
    compiler = CopyingCompiler("/bin/clang-15", "clang version 15", ("-O3",), ".hsaco")
    monkeypatch.setattr(manifest, "SOURCES", tmp_path)
    monkeypatch.setattr(objects, "PACKAGED", tmp_path / "objects")
    monkeypatch.setattr(build, "find_compiler", lambda arch: compilers.check_arch(arch) or compiler)
    monkeypatch.setattr(build, "amd_figures", lambda code: {"linear_float16_128x64x32w4": FIGURES})
    monkeypatch.setattr(ahead, "_launches", lambda arch: {"form": (None, None, {})})
    monkeypatch.setattr(ahead, "_compile", lambda form, *_: CarriedKernel(form, "linear_kernel", 4, 0, b"code"))
    objects.load.cache_clear()


@pytest.mark.usefixtures("_fake_compiler")
def test_build_and_inspect(tmp_path: Path) -> None:
    status, out, _ = run("kernels", "build", "--arch", "gfx908,gfx90a")
    assert status == 0
    for arch in ("gfx908", "gfx90a"):
        assert f"objects/{arch}: 1 kernels, clang-15: clang version 15" in out
        assert (tmp_path / "objects" / arch / "linear.hsaco").read_text() == "code"
        assert f"objects/{arch}/triton.zip: 1 kernels, Triton's" in out
    status, out, _ = run("kernels", "inspect", "--arch", "gfx908", "--json")
    assert status == 0
    (row,) = json.loads(out)
    assert (row["name"], row["vgprs"], row["global_memory"]) == ("linear_float16_128x64x32w4", 96, None)
    status, out, _ = run("kernels", "inspect", "--arch", "gfx908")
    assert status == 0
    line = next(line for line in out.splitlines() if "linear_float16_128x64x32w4" in line)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == [
        "96",
        "64",
        "40",
        "16384",
        "0",
        "0",
        "2",
        "32",
        "–",
        "–",
    ]


@pytest.mark.usefixtures("_fake_compiler")
def test_build_elsewhere(tmp_path: Path) -> None:
    status, _, _ = run("kernels", "build", "--arch", "gfx908", "--out", str(tmp_path / "other"))
    assert status == 0
    assert (tmp_path / "other" / "gfx908" / "manifest.json").is_file()
    assert not (tmp_path / "objects").exists()


@pytest.mark.usefixtures("_fake_compiler")
@pytest.mark.parametrize("spilled", [{"spills": 3}, {"scratch": 8}, {}], ids=str)
def test_kernels_that_spill_are_named(spilled: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "amd_figures", lambda code: {"linear_float16_128x64x32w4": replace(FIGURES, **spilled)})
    status, out, _ = run("kernels", "build", "--arch", "gfx908")
    assert status == 0
    assert ("1 of them spill registers" in out and "linear_float16_128x64x32w4" in out) == bool(spilled)


@pytest.mark.usefixtures("_fake_compiler")
def test_errors_are_one_line() -> None:
    status, _, error = run("kernels", "inspect", "--arch", "gfx90a")
    assert (status, len(error.splitlines())) == (2, 1)
    assert "run: updp-rt kernels build --arch gfx90a" in error
    status, _, error = run("kernels", "build", "--arch", "gfx908,gfx999")
    assert (status, len(error.splitlines())) == (2, 1)
    assert "no kernels for architecture 'gfx999'" in error


@pytest.mark.parametrize("command", ["build", "inspect"])
def test_help_has_an_example(command: str) -> None:
    status, out, _ = run("kernels", command, "--help")
    assert status == 0
    assert f"Example: updp-rt kernels {command}" in " ".join(out.split())


def test_inspect_of_something_else_than_a_code_object(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no code")
    status, _, error = run("kernels", "inspect", str(path))
    assert (status, len(error.splitlines())) == (2, 1)
    status, _, error = run("kernels", "inspect", str(tmp_path / "absent"))
    assert (status, "absent" in error) == (2, True)
