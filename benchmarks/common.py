"""What the benchmarks share: the four models, their pruned variants, and results with where they were measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from updp_rt.artifacts import versions
from updp_rt.artifacts.atomic import write_json
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.ops.tolerance import error_bound, largest_error
from updp_rt.pruning.latency import measure_latency
from updp_rt.runtime.device import device_name

MODELS = ("resnet34", "mobilenetv2_100", "convnext_tiny", "deit_tiny_patch16_224")
RESULTS = Path(__file__).parent / "results"


def build_model(name: str, image_size: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A timm model in eval mode whose norms and layer scales hide no mistake."""
    model = timm.create_model(name)
    if hasattr(model, "patch_embed"):  # only these are built for one image size
        model = timm.create_model(name, img_size=image_size)
    return randomize(model.eval()).to(device, dtype)


@dataclass(frozen=True)
class Choice:
    """Blocks to merge: the pruned body and the merged form of each."""

    bodies: dict[str, str]
    forms: dict[str, str]


def choose_fastest(model: nn.Module, example: Tensor, counts: Sequence[int], **how: Any) -> dict[int, Choice]:
    """By count, the blocks that save most on `example`, as a search for latency alone would choose them.

    `how` goes to `measure_latency`.
    """
    latency = measure_latency(model, example, **how)
    names = prunable_blocks(model)
    saved = {name: latency.model_ms - latency.estimate_ms(latency.choose_bodies([name])) for name in names}
    ordered = sorted(names, key=lambda name: -saved[name])
    bodies = {count: latency.choose_bodies(ordered[:count]) for count in counts}
    return {count: Choice(chosen, latency.choose_forms(chosen)) for count, chosen in bodies.items()}


def prune(model: nn.Module, choice: Choice) -> nn.Module:
    """`model` with the chosen blocks in their pruned form, not merged yet."""
    subnet = make_progressive(model, choice.bodies)
    set_lambda(subnet, 1.0)
    return subnet


def merge_fastest(model: nn.Module, example: Tensor, count: int, **how: Any) -> nn.Module:
    """`model` with the `count` blocks merged that `choose_fastest` finds."""
    choice = choose_fastest(model, example, [count], **how)[count]
    return merge_model(prune(model, choice), choice.forms)


def longest_sum(model: nn.Module) -> int:
    """K: the most products that one element of any convolution's or linear layer's result sums."""
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return max((layer.weight[0].numel() for layer in layers), default=1)


def why_wrong(found: Tensor, plain: Tensor, exact: Tensor, length: int) -> str | None:
    """Why a result is wrong, judged on its last elements, of which `exact` has as many; None: it is right.

    Args:
        plain: what torch's own operators give.
        exact: the same in float64.
        length: K, as `longest_sum` finds it.
    """
    found, plain = found[-len(exact) :], plain[-len(exact) :]
    error, allowed = largest_error(found, exact), error_bound(plain, exact, length)
    # Written so that a NaN is wrong.
    return None if error <= allowed else f"its results are off by {error:.1e}, the bound is {allowed:.1e}"


def write_result(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Store a benchmark's rows with device, versions, commit and what else says how they were measured."""
    path = RESULTS / device_name() / f"{name}.json"
    write_json(path, {**provenance(), **about, "rows": rows})
    return path


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Where something is measured: the device (by default the first GPU, if any), threads, versions, commit."""
    return {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }


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
