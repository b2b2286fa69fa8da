"""What fused kernels need of a machine: triton however it was installed, what is missing, and what mends it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

KFD = Path("/dev/kfd")  # what the amdgpu driver puts there

_PYTORCH_ROCM = "https://download.pytorch.org/whl/rocm7.2"
_AMD = "https://stable.repo.amd.com/rocm/whl-next/"  # since ROCm 10
_AMD_7 = "https://repo.amd.com/rocm/whl-multi-arch/"
# Each of these installs the package `triton`: PyPI's and AMD's own, pytorch.org's for ROCm, and that before torch 2.10.
_TRITONS = ("triton", "triton-rocm", "pytorch-triton-rocm")


class Missing(NamedTuple):
    """Something that keeps fused kernels from running here, and the command that mends it."""

    what: str
    mend: str


def triton_version() -> str | None:
    """The version of the triton that is imported here, whatever distribution brought it; None without one."""
    try:
        return str(importlib.import_module("triton").__version__)
    except (ImportError, AttributeError):
        return None


def missing() -> list[Missing]:
    """What is missing here for fused kernels on a GPU; nothing where neither torch nor the machine knows of a GPU."""
    if not torch.version.hip and not torch.version.cuda:
        return [*_wrong_torch()]
    return [*_wrong_torch(), *_driver(), *_device_code(), *_triton(), *_objects()]


def _wrong_torch() -> Iterator[Missing]:
    if KFD.exists() and not torch.version.hip and not torch.cuda.is_available():
        yield Missing(
            f"there is an AMD GPU, but torch {torch.__version__} is not built for ROCm",
            f"pip install --force-reinstall torch torchvision --index-url {_PYTORCH_ROCM}",
        )


def _driver() -> Iterator[Missing]:
    if torch.cuda.is_available():
        return
    if not torch.version.hip:
        if not KFD.exists():
            yield Missing("torch sees no GPU", "nvidia-smi   # says what is wrong with the driver")
    elif not KFD.exists():
        yield Missing("torch sees no GPU: the driver is not loaded, there is no /dev/kfd", "sudo modprobe amdgpu")
    elif not os.access(KFD, os.R_OK | os.W_OK):
        yield Missing(
            "torch sees no GPU: you may not open /dev/kfd", "sudo usermod -aG render,video $USER   # then log in again"
        )
    else:
        yield Missing(
            "torch sees no GPU, though the driver is loaded",
            "unset HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES && rocminfo   # is the GPU listed?",
        )


def _device_code() -> Iterator[Missing]:
    """AMD's wheels hold a GPU's code only where its extra was asked for; others were not built for every GPU."""
    if not torch.version.hip:
        return
    built = torch.cuda.get_arch_list()
    for arch in _architectures():
        extra = f"device-{arch}"
        parts = [name for name, rest in _requirements() if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", rest)]
        if parts and any(_version(name) is None for name in parts):
            packages = f'"torch[{extra}]=={torch.__version__}" "torchvision[{extra}]"'
            yield Missing(
                f"AMD's torch was installed without its code for {arch}",
                f"pip install {packages} --index-url {_index('triton')}",
            )
        elif built and arch not in [name.split(":")[0] for name in built]:
            yield Missing(
                f"torch {torch.__version__} holds no code for {arch}, only for {', '.join(built)}",
                f"pip install --force-reinstall torch torchvision --index-url {_PYTORCH_ROCM}",
            )


def _triton() -> Iterator[Missing]:
    wanted = next(((name, _pinned(rest)) for name, rest in _requirements() if name in _TRITONS), None)
    there = {name: version for name in _TRITONS if (version := _version(name)) is not None}
    name, version = wanted or (next(reversed(there), "triton"), None)
    install = f"pip install --no-deps --force-reinstall {name}" + (f"=={version}" if version else "")
    if torch.version.hip:
        install += f" --index-url {_index(name)}"
    if len(there) > 1:
        yield Missing(
            f"{' and '.join(there)} are both installed, one over the other",
            f"pip uninstall -y {' '.join(there)} && {install}",
        )
    elif triton_version() is None:
        yield Missing("triton is not installed", install)
    elif there and wanted and version and there.get(name) != version:
        (found,) = there.items()
        yield Missing(
            f"{' '.join(found)} is installed, but this torch is made for {name} {version}",
            f"pip uninstall -y {found[0]} && {install}",
        )


def _objects() -> Iterator[Missing]:
    from updp_rt.kernels.hip import MissingObjectsError, load
    from updp_rt.kernels.hip.compilers import CompilerError, find_compiler, installing

    if importlib.util.find_spec("updp_rt._launcher") is None:
        yield Missing("the launcher of HIP kernels is not built", "pip install --no-deps -e .   # where updp_rt lies")
    for arch in _architectures():
        try:
            load(arch)
        except MissingObjectsError:
            try:
                find_compiler(arch)
            except CompilerError as error:
                yield Missing(str(error).partition("; install ")[0], installing(arch))
            yield Missing(f"no HIP kernels are built for {arch}", f"updp-rt kernels build --arch {arch}")
        except CompilerError:  # none are written for it
            continue


def _architectures() -> list[str]:
    """Of the GPUs here; where a ROCm torch sees none, that for which it was most likely installed."""
    from updp_rt.kernels.architecture import architecture

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = dict.fromkeys(architecture(torch.device("cuda", index)) for index in range(count))
    return list(found) or (["gfx908"] if torch.version.hip else [])


def _requirements() -> list[tuple[str, str]]:
    """What torch's distribution asks for: names, and what else is said of each."""
    try:
        lines = metadata.requires("torch") or []
    except metadata.PackageNotFoundError:
        return []
    parted = (re.match(r"\s*([A-Za-z0-9._-]+)(.*)", line) for line in lines)
    return [(match[1], match[2]) for match in parted if match]


def _pinned(rest: str) -> str | None:
    found = re.search(r"==\s*([^\s;,)]+)", rest.partition(";")[0])
    return found[1] if found else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _index(triton: str) -> str:
    """Where the torch that asks for a triton of this name is served for ROCm."""
    local = re.search(r"\+rocm(\d+)(\.\d+)?", torch.__version__)
    if triton == "triton":
        return _AMD_7 if local and int(local[1]) < 10 else _AMD
    return f"https://download.pytorch.org/whl/rocm{local[1]}{local[2] or ''}" if local else _PYTORCH_ROCM
