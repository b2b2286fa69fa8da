"""What the benchmarks share: the four models, and results written with where they were measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from updp_rt.artifacts import versions
from updp_rt.artifacts.atomic import write_json

MODELS = ("resnet34", "mobilenetv2_100", "convnext_tiny", "deit_tiny_patch16_224")
RESULTS = Path(__file__).parent / "results"


def device_name() -> str:
    """The processor and the threads used, or the GPU, as a folder name."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
    else:
        name = f"{_processor()} {torch.get_num_threads()} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_result(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Store a benchmark's rows with device, versions and what else says how they were measured."""
    path = RESULTS / device_name() / f"{name}.json"
    write_json(path, {"device": device_name(), "cores": os.cpu_count(), "versions": versions(), **about, "rows": rows})
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
