"""What the benchmarks share: the four models, their pruned variants, and results with where they were measured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from updp_rt.artifacts import versions
from updp_rt.artifacts.atomic import write_json
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.pruning.latency import measure_latency
from updp_rt.runtime.device import device_name

MODELS = ("resnet34", "mobilenetv2_100", "convnext_tiny", "deit_tiny_patch16_224")
RESULTS = Path(__file__).parent / "results"


def merge_fastest(model: nn.Module, example: Tensor, count: int, **how: Any) -> nn.Module:
    """`model` with `count` blocks merged: those that save most on `example`, as a search for latency alone would.

    `how` goes to `measure_latency`.
    """
    latency = measure_latency(model, example, **how)
    names = prunable_blocks(model)
    saved = {name: latency.model_ms - latency.estimate_ms(latency.choose_bodies([name])) for name in names}
    bodies = latency.choose_bodies(sorted(names, key=lambda name: -saved[name])[:count])
    subnet = make_progressive(model, bodies)
    set_lambda(subnet, 1.0)
    return merge_model(subnet, latency.choose_forms(bodies))


def write_result(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Store a benchmark's rows with device, versions, commit and what else says how they were measured."""
    path = RESULTS / device_name() / f"{name}.json"
    found = {"device": device_name(), "cores": os.cpu_count(), "versions": versions(), "commit": commit()}
    write_json(path, {**found, **about, "rows": rows})
    return path


def commit() -> str:
    """The checkout's commit, with "+changes" where files differ from it; "unknown" outside git."""
    try:
        head, changes = (
            subprocess.run(
                ["git", *args], cwd=RESULTS.parent, capture_output=True, text=True, check=True
            ).stdout.strip()
            for args in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changes else "")
