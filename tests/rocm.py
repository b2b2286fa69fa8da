"""What a ROCm install with an MI100 looks like from Python, put up on a machine that has neither.

It stands in for what Python sees: the distributions installed, torch's account of itself and of the card, the device
file of the driver. It stands in for nothing that computes: within `on_the_card`, what is sent to the card stays on the
CPU, where HIP kernels run on the emulator and Triton's, MIOpen and graphs do not run at all. Nothing here shows that
ROCm, its driver or its compilers work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from updp_rt.kernels.architecture import architecture
from updp_rt.runtime import installation

NAME = "AMD Instinct MI100"
PINNED = "triton-rocm==3.7.1; platform_system == 'Linux'"  # as pytorch.org's torch 2.13.0+rocm7.2 asks for it
_OURS = ("torch", "triton", "triton-rocm", "pytorch-triton-rocm")


@contextmanager
def on_the_card() -> Iterator[None]:
    """What is sent to the card stays on the CPU."""
    to = torch.Tensor.to

    def stay(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return to(tensor, *map(_here, args), **{name: _here(value) for name, value in kwargs.items()})

    with pytest.MonkeyPatch.context() as patch:  # not a mode of torch's, under which nothing is fused
        patch.setattr(torch.Tensor, "to", stay)
        patch.setattr(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor)
        yield


def _here(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


class Rocm:
    """An install of which everything may be taken away again.

    Args:
        folder: where distributions are put; on the path.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, monkeypatch
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(metadata, "distribution", self._distribution)
        self.install("torch", "2.13.0+rocm7.2", PINNED)
        self.install("triton-rocm", "3.7.1")
        kfd = folder / "kfd"
        kfd.touch()
        monkeypatch.setattr(installation, "KFD", kfd)
        for owner, name, value in (
            (torch, "__version__", "2.13.0+rocm7.2"),
            (torch.version, "hip", "7.2.53211"),
            (torch.version, "cuda", None),
            (torch.cuda, "get_arch_list", lambda: ["gfx900", "gfx908", "gfx90a", "gfx942"]),
            (torch.cuda, "get_device_name", lambda device=None: NAME),
            (torch.cuda, "get_device_properties", lambda device=None: self.properties),
            (torch.cuda, "current_device", lambda: 0),
        ):
            monkeypatch.setattr(owner, name, value)
        self.gpus(1)

    properties: Any = SimpleNamespace(
        name=NAME,
        gcnArchName="gfx908:sramecc+:xnack-",
        major=9,
        minor=0,
        total_memory=32 << 30,
        multi_processor_count=120,
        L2_cache_size=8 << 20,
    )

    def install(self, name: str, version: str, *requirements: str) -> None:
        """A distribution's metadata; it brings no code."""
        self.remove(name)
        about = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        lines = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}")
        needed = (f"Requires-Dist: {requirement}" for requirement in requirements)
        (about / "METADATA").write_text("\n".join((*lines, *needed)) + "\n")

    def remove(self, name: str) -> None:
        for about in self.folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
            (about / "METADATA").unlink()
            about.rmdir()

    def gpus(self, count: int) -> None:
        """How many torch sees."""
        self._patch.setattr(torch.cuda, "device_count", lambda: count)
        self._patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        architecture.cache_clear()

    def hide_triton(self) -> None:
        """The package itself cannot be imported."""
        self._patch.setitem(sys.modules, "triton", None)

    def _distribution(self, name: str) -> metadata.Distribution:
        """Of torch and triton only what is installed here."""
        path = [str(self.folder)] if name in _OURS else sys.path
        for found in metadata.distributions(name=name, path=path):
            return found
        raise metadata.PackageNotFoundError(name)
