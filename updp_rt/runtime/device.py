"""What a measurement depends on besides its problem: the device, the threads, the versions, the kernels' source."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from updp_rt.kernels.hip.device import emulation


def device_name(device: torch.device | None = None) -> str:
    """The GPU, or the processor and the threads used, as a name for files; by default the first GPU if any."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        name = f"{_processor()} {torch.get_num_threads()} threads"
        if emulation() is not None:
            name = f"emulated gfx908 {name}"
    else:
        name = torch.cuda.get_device_name(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def environment(device: torch.device) -> dict[str, str]:
    """What a tuned table is valid for."""
    found = {"device": device_name(device), "torch": torch.__version__, "kernels": kernel_hash()}
    if device.type == "cuda":
        found["triton"] = metadata.version("triton")
        found["library"] = str(torch.version.hip or torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


@cache
def kernel_hash(backend: str = "") -> str:
    """sha256 over the sources of the kernels and of the backends that call them, its first 16 digits.

    Args:
        backend: only what this one runs: its kernels, if it has any here, and the code that calls them.
    """
    digest = hashlib.sha256()
    for name in ("updp_rt.kernels", "updp_rt.backends"):
        root = Path(importlib.import_module(name).__path__[0])
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".hip", ".h")):
            place = path.relative_to(root)
            if not backend or backend in (place.parts[0], path.stem):
                digest.update(place.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where measurements are kept: ``$UPDP_RT_CACHE``, else ``updp_rt`` in the user's cache folder."""
    chosen = os.environ.get("UPDP_RT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "updp_rt"


def capturing(device: torch.device) -> bool:
    """Whether kernels launched now are recorded into a CUDA or HIP graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
