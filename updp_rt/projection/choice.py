"""Which blocks a merged model would merge, as a search for time alone would choose them by projection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, pruned_bodies, set_lambda
from updp_rt.projection import LABEL
from updp_rt.projection.problems import Images, Run, run_of
from updp_rt.projection.report import Kernels
from updp_rt.pruning.latency import BlockLatency, LatencyTable


def project_latency(
    model: nn.Module,
    size: Images,
    batch: int,
    dtype: torch.dtype,
    kernels: Kernels,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Projected milliseconds of every prunable block, as it is and in each merged form, as `measure_latency` has them.

    Args:
        model: a timm model, in eval mode, on the CPU.
        advance: called with the numbers of distinct operators done and to do, as they change.
    """
    names = prunable_blocks(model)
    variants = {
        (body, form): _merge(model, dict.fromkeys(names, body), dict.fromkeys(names, form))
        for body, forms in pruned_bodies(model).items()
        for form in forms
    }
    runs: dict[tuple[str, str] | None, Run] = {None: run_of(model, size, batch, dtype)}
    runs |= {kind: run_of(merged, size, batch, dtype) for kind, merged in variants.items()}
    problems = list(dict.fromkeys(problem for run in runs.values() for _, problem in run.problems))
    for done, problem in enumerate(problems):
        advance(done, len(problems))
        kernels.seconds(problem)
    advance(len(problems), len(problems))
    times = {kind: _by_block(run, names, kernels) for kind, run in runs.items()}
    blocks = {}
    for name in names:
        merged: dict[str, dict[str, float]] = defaultdict(dict)
        for body, form in variants:
            merged[body][form] = times[body, form][name]
        blocks[name] = BlockLatency(baseline_ms=times[None][name], merged_ms=merged)
    whole = _by_block(runs[None], [""], kernels)[""]
    return LatencyTable(device=f"gfx908 ({LABEL})", batch_size=batch, model_ms=whole, blocks=blocks)


def check_count(model: nn.Module, count: int) -> None:
    """Raise ValueError where `model` has fewer than `count` blocks that can be pruned."""
    there_are = len(prunable_blocks(model))
    if count > there_are:
        raise ValueError(f"{count} blocks cannot be pruned: the model has {there_are} that can; ask for fewer")


def merge_fastest(model: nn.Module, latency: LatencyTable, count: int) -> nn.Module:
    """`model` with the `count` blocks merged that save most, each in its fastest form."""
    bodies = latency.choose_bodies(latency.blocks)
    saved = sorted(bodies, key=lambda name: -latency.blocks[name].saved_ms(bodies[name]))
    chosen = {name: bodies[name] for name in saved[:count]}
    return _merge(model, chosen, latency.choose_forms(chosen)) if count else model


def _merge(model: nn.Module, bodies: dict[str, str], forms: dict[str, str]) -> nn.Module:
    subnet = make_progressive(model, bodies)
    set_lambda(subnet, 1.0)
    return merge_model(subnet, forms)


def _by_block(run: Run, names: list[str], kernels: Kernels) -> dict[str, float]:
    """Milliseconds of all that runs in each of these modules, the whole model's under the empty name."""
    spent = [(place, kernels.seconds(problem)) for place, problem in run.problems]
    spent += [(place, one.seconds) for place, one, _ in run.left]
    inside = {name: f"{name}." for name in names}
    return {
        name: 1e3 * sum(seconds for place, seconds in spent if not name or f"{place}.".startswith(inside[name]))
        for name in names
    }
