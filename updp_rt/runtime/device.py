"""What a measurement depends on besides its problem: the device, the threads, the versions, the kernels' source."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from functools import cache
from pathlib import Path

import torch

import updp_rt
from updp_rt.backends import BACKENDS
from updp_rt.kernels.hip.device import emulation
from updp_rt.runtime.installation import triton_version


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
    found = {
        "device": device_name(device),
        "torch": torch.__version__,
        "kernels": _digest("".join(map(source_hash, sorted(BACKENDS))).encode()),
    }
    if device.type == "cuda":
        found["triton"] = triton_version() or "none"
        found["library"] = str(torch.version.hip or torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


@cache
def source_digests(backend: str) -> dict[str, str]:
    """sha256 of each file whose code runs for `backend`, by its path in the package, first 16 digits."""
    root = Path(updp_rt.__file__).parent
    files = {path for pattern in BACKENDS[backend].sources for path in root.glob(pattern)}
    return {p.relative_to(root).as_posix(): _digest(p.read_bytes()) for p in sorted(files)}


def source_hash(backend: str) -> str:
    """One digest of `source_digests`, 16 digits."""
    return _digest(json.dumps(source_digests(backend), sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def capturing(device: torch.device) -> bool:
    """Whether kernels launched now are recorded into a CUDA or HIP graph."""
    if device.type == "cuda":
        return torch.cuda.is_current_stream_capturing()
    emulated = emulation()
    return emulated is not None and emulated.recording


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
