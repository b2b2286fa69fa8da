"""What `updp-rt info` says is missing on a machine with an MI100, each with the command that mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.rocm import PINNED, Rocm
from updp_rt.kernels import hip
from updp_rt.kernels.hip import MissingObjectsError, compilers
from updp_rt.runtime import installation
from updp_rt.runtime.device import device_name, environment
from updp_rt.runtime.installation import Missing, missing, triton_version

INDEX = "https://download.pytorch.org/whl/rocm7.2"


@pytest.fixture(autouse=True)
def _objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """HIP kernels are built, whatever this checkout holds."""
    monkeypatch.setattr(hip, "load", lambda arch: None)


def one() -> Missing:
    """What is missing, which is one thing."""
    (found,) = missing()
    assert "\n" not in found.what + found.mend
    return found


def test_a_whole_install_lacks_nothing(rocm: Rocm) -> None:
    assert missing() == []
    assert triton_version() == __import__("triton").__version__
    found = environment(torch.device("cuda", 0))
    assert (found["device"], found["triton"], found["library"]) == (
        "amd-instinct-mi100",
        triton_version(),
        "7.2.53211",
    )
    assert device_name() == "amd-instinct-mi100"


def test_without_a_gpu_s_torch_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "KFD", tmp_path / "kfd")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert missing() == []


def test_a_torch_for_something_else_on_a_machine_with_an_amd_gpu(rocm: Rocm, monkeypatch: pytest.MonkeyPatch) -> None:
    rocm.gpus(0)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "is not built for ROCm" in one().what
    assert one().mend == f"pip install --force-reinstall torch torchvision --index-url {INDEX}"


def test_the_driver(rocm: Rocm, monkeypatch: pytest.MonkeyPatch) -> None:
    rocm.gpus(0)
    assert (one().what, one().mend.partition("   #")[0]) == (
        "torch sees no GPU, though the driver is loaded",
        "unset HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES && rocminfo",
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert one().mend.startswith("sudo usermod -aG render,video $USER")
    installation.KFD.unlink()
    assert one() == ("torch sees no GPU: the driver is not loaded, there is no /dev/kfd", "sudo modprobe amdgpu")


def test_kernels_that_are_not_built(rocm: Rocm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(arch: str) -> None:
        raise MissingObjectsError("no")

    monkeypatch.setattr(hip, "load", absent)
    monkeypatch.setattr(compilers, "find_compiler", lambda arch: None)
    build = Missing("no HIP kernels are built for gfx908", "updp-rt kernels build --arch gfx908")
    assert missing() == [build]

    def none(arch: str) -> None:
        raise compilers.CompilerError(f"no compiler for {arch}: none was found; install something")

    monkeypatch.setattr(compilers, "find_compiler", none)
    compiler, again = missing()
    assert again == build
    assert compiler.what == "no compiler for gfx908: none was found"
    assert compiler.mend.startswith("sudo apt install clang-15 lld-15")


def test_no_triton(rocm: Rocm) -> None:
    rocm.remove("triton-rocm")
    rocm.hide_triton()
    assert triton_version() is None
    assert environment(torch.device("cuda", 0))["triton"] == "none"
    install = f"pip install --no-deps --force-reinstall triton-rocm==3.7.1 --index-url {INDEX}"
    assert one() == ("triton is not installed", install)


def test_pypi_s_triton_over_rocm_s(rocm: Rocm) -> None:
    rocm.install("triton", "3.9.0")
    assert one().what == "triton and triton-rocm are both installed, one over the other"
    assert one().mend == (
        "pip uninstall -y triton triton-rocm && "
        f"pip install --no-deps --force-reinstall triton-rocm==3.7.1 --index-url {INDEX}"
    )


@pytest.mark.parametrize(("name", "version"), [("triton", "3.7.1"), ("triton-rocm", "3.6.0")])
def test_another_triton_than_torch_is_made_for(name: str, version: str, rocm: Rocm) -> None:
    rocm.remove("triton-rocm")
    rocm.install(name, version)
    assert one().what == f"{name} {version} is installed, but this torch is made for triton-rocm 3.7.1"
    assert one().mend.startswith(f"pip uninstall -y {name} && pip install")


def test_the_name_before_torch_2_10_is_known(rocm: Rocm) -> None:
    rocm.remove("triton-rocm")
    rocm.install("pytorch-triton-rocm", "3.7.1")
    rocm.install("torch", "2.9.1+rocm6.4", PINNED.replace("triton-rocm", "pytorch-triton-rocm"))
    assert missing() == []


def test_a_torch_from_source_that_names_no_triton(rocm: Rocm) -> None:
    rocm.install("torch", "2.14.0a0+git1234")
    assert missing() == []


@pytest.mark.parametrize(
    ("rocm_version", "index"),
    [
        ("10.0.0", "https://stable.repo.amd.com/rocm/whl-next/"),
        ("7.14.0", "https://repo.amd.com/rocm/whl-multi-arch/"),
    ],
)
def test_amd_s_wheels_without_the_card_s_code(
    rocm_version: str, index: str, rocm: Rocm, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, triton = f"2.13.0+rocm{rocm_version}", f"3.8.0+git4cff872c.rocm{rocm_version}"
    extras = [f"amd-torch-device-{arch}=={version}; extra == 'device-{arch}'" for arch in ("gfx908", "gfx90a")]
    monkeypatch.setattr(torch, "__version__", version)
    rocm.remove("triton-rocm")
    rocm.install("triton", triton)
    rocm.install("torch", version, f"triton=={triton}", *extras)
    assert one().what == "AMD's torch was installed without its code for gfx908"
    assert one().mend == (
        f'pip install "torch[device-gfx908]=={version}" "torchvision[device-gfx908]" --index-url {index}'
    )
    rocm.install("amd-torch-device-gfx908", version)
    assert missing() == []


def test_a_torch_that_was_not_built_for_the_card(rocm: Rocm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a", "gfx942"])
    assert one().what == "torch 2.13.0+rocm7.2 holds no code for gfx908, only for gfx90a, gfx942"
