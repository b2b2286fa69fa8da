"""Every command of docs/mi100.md in what looks from Python like a ROCm install, as far as a machine without a GPU can.

`tests.rocm` says what stands in for what. Models are smaller than those shown, compilers copy, and `benchmarks gpu`
takes the CPU for its device.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import triton
from typer.testing import CliRunner

import updp_rt
from benchmarks import rotation
from benchmarks.commands import app as benchmarks
from benchmarks.results import read
from benchmarks.suites import gpu
from tests.rocm import NAME, Rocm, on_the_card
from updp_rt.backends import ahead
from updp_rt.blocks.randomize import randomize
from updp_rt.cli import app
from updp_rt.kernels import hip
from updp_rt.kernels.hip import build, compilers, manifest, objects
from updp_rt.kernels.hip.figures import Figures
from updp_rt.ops import LINEAR

pytestmark = pytest.mark.usefixtures("own_table")

PAGE = Path(updp_rt.__file__).parents[1] / "docs" / "mi100.md"
SMALLER = {"deit_tiny_patch16_224": "test_vit", "--batch 128": "--batch 1 --img-size 32"}
SHOWN = {
    "updp-rt info",
    "updp-rt kernels build",
    "updp-rt explain",
    "updp-rt tune",
    "updp-rt verify",
    "python -m benchmarks gpu",
}


def _shown() -> dict[str, str]:
    """The command lines of the section on setting up, each in its smaller form, by their first words."""
    (block,) = re.findall(r"## Setting up.*?^```\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = {}
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    for line in block.splitlines():
        (name,) = [name for name in SHOWN if line.startswith(name)]
        found[name] = line.removeprefix(name)
    return found


COMMANDS = _shown()


@pytest.fixture(autouse=True)
def _card(rocm: Rocm) -> Iterator[None]:
    with hip.emulated_mi100(), on_the_card():
        yield


def run(name: str, *more: str) -> str:
    """What the command shown says, which must end well."""
    tool, words = (benchmarks, ["gpu"]) if "benchmarks" in name else (app, name.split()[1:])
    arguments = [*words, *shlex.split(COMMANDS[name], comments=True), *more]
    found = CliRunner().invoke(tool, arguments, env={"COLUMNS": "200"})
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def test_all_that_is_shown_is_run_here() -> None:
    assert COMMANDS.keys() == SHOWN


def test_info() -> None:
    said = run("updp-rt info")
    assert f"gpu 0: {NAME}, gfx908:sramecc+:xnack-" in said
    assert "GPU: ROCm" in said
    assert "hip (float32, float16, bfloat16)" in said
    # Of Triton's kernels the emulated card runs those that were compiled ahead; a real one runs all.
    assert f"triton: {triton.__version__}" in said
    assert "missing" not in said


def test_info_without_what_can_be_missing(rocm: Rocm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rocm.gpus(0)
    rocm.install("triton", "3.9.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compilers, "ROCM", tmp_path / "rocm")
    monkeypatch.setattr(objects, "PACKAGED", tmp_path / "objects")
    compilers.find_compiler.cache_clear()
    objects.load.cache_clear()
    said = run("updp-rt info").partition("missing, and the command that mends it\n")[2]
    compilers.find_compiler.cache_clear()
    objects.load.cache_clear()
    beginnings = ("torch sees no GPU", "triton and triton-rocm are both", "no compiler for gfx908", "no HIP kernels")
    assert [line.startswith(f"  {what}") for line, what in zip(said.splitlines(), beginnings, strict=True)] == [
        True
    ] * 4


def test_kernels_are_built_with_the_hipcc_of_a_rocm_off_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hipcc = tmp_path / "rocm/core-7.12/bin/hipcc"
    hipcc.parent.mkdir(parents=True)
    hipcc.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "HIP version 7.12"; exit; fi\n'
        'while [ "$1" != -o ]; do last="$1"; shift; done; cp "$last" "$2"\n'
    )
    hipcc.chmod(0o755)
    tools, sources = tmp_path / "bin", tmp_path / "sources"
    tools.mkdir()
    sources.mkdir()
    (tools / "cp").symlink_to(str(shutil.which("cp")))
    (sources / "linear.hip").write_text("code")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(compilers, "ROCM", tmp_path / "rocm")
    monkeypatch.setattr(manifest, "SOURCES", sources)
    monkeypatch.setattr(objects, "PACKAGED", tmp_path / "objects")
    figures = Figures(vgprs=96, agprs=64, sgprs=40, spills=0, scratch=0, lds=16384, occupancy=2.0, matrix=32)
    monkeypatch.setattr(build, "amd_figures", lambda code: {"linear_float16_128x64x32w4": figures})
    monkeypatch.setattr(ahead, "_launches", lambda arch: {})
    compilers.find_compiler.cache_clear()
    said = run("updp-rt kernels build")
    compilers.find_compiler.cache_clear()
    assert "objects/gfx908: 1 kernels, hipcc: HIP version 7.12" in said
    assert "objects/gfx908/triton.zip: 0 kernels, Triton's" in said


def test_explain_and_verify() -> None:
    said = run("updp-rt explain")
    assert "hip:32x64x64w4" in said
    assert "vendor:hip-epilogue" in said
    assert "test_vit, batch 1, float16: eager" in said
    assert "fused modules and the logits: PASSED" in run("updp-rt verify")


def test_tune(tmp_path: Path) -> None:
    said = run("updp-rt tune", "--out", str(tmp_path / "mi100.json"))
    assert "times measured" in said
    assert "hip:32x64x64w4" in (tmp_path / "mi100.json").read_text()


def test_accelerate_as_the_readme_has_it() -> None:
    model = randomize(timm.create_model("test_resnet", num_classes=5).eval()).half().cuda()
    images = torch.randn(1, 3, 32, 32).half().cuda()
    fast = updp_rt.accelerate(model, images)
    with torch.inference_mode():
        assert torch.allclose(fast(images), model(images), rtol=0.02, atol=0.02)
    assert any(name.startswith("hip:") for row in updp_rt.explain(fast).rows for name in row.times_ms)


@pytest.mark.slow
def test_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One operator's numerics in one dtype, and one model with the operators that it meets."""
    monkeypatch.setattr(gpu, "ODD", (LINEAR,))
    monkeypatch.setattr(gpu, "DTYPES", (torch.float16,))
    monkeypatch.setattr(gpu, "SPREAD", 2)
    monkeypatch.setattr(rotation, "cache_bytes", lambda device: 1 << 16)
    smallest = "--device cpu --model test_resnet --batch-size 1 --img-size 32 --pruned 1 --torchcompile none"
    smallest += f" --num-bench-iter 1 --num-warm-iter 1 --time-limit 0 --out {tmp_path}"
    said = run("python -m benchmarks gpu", *smallest.split())
    result = read(tmp_path / "gpu.csv")
    assert {row["part"] for row in result.rows} == {"numerics", "models", "operators"}
    assert not any("wrong" in row for row in result.rows), said
