"""Measured latency of every block: as it is, and in each of its merged forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._timing import time_side_by_side
from updp_rt.blocks import find_family, prunable_blocks, set_lambda
from updp_rt.blocks.inspect import form_label
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.pruning.progress import Progress

Prepare = Callable[[nn.Module, Tensor], nn.Module]

CLEARLY_FASTER = 0.9  # a form replaces the one listed before it only if it is at least 10% faster: noise decides less


class BlockLatency(BaseModel):
    """Median milliseconds of one block, and of its merged forms by pruned body and form."""

    model_config = ConfigDict(extra="forbid")

    baseline_ms: float
    merged_ms: dict[str, dict[str, float]]

    def best_form(self, body: str) -> str:
        """The fastest merged form of a pruned body."""
        return _fastest(self.merged_ms[body])

    def best_body(self) -> str:
        """The pruned body whose best form is the fastest."""
        return _fastest({body: forms[self.best_form(body)] for body, forms in self.merged_ms.items()})

    def by_label(self) -> dict[str, float]:
        """Of every merged form, under the name that `inspect` gives it."""
        return {
            form_label(body, form, len(self.merged_ms)): ms
            for body, forms in self.merged_ms.items()
            for form, ms in forms.items()
        }

    def saved_ms(self, body: str) -> float:
        """What the block saves in its best merged form; below 0 if that is slower."""
        return self.baseline_ms - self.merged_ms[body][self.best_form(body)]


class LatencyTable(BaseModel):
    """Latencies of a model's prunable blocks on one device at one batch size."""

    model_config = ConfigDict(extra="forbid")

    device: str
    batch_size: int
    model_ms: float
    blocks: dict[str, BlockLatency]

    def estimate_ms(self, bodies: dict[str, str]) -> float:
        """The model's latency with these blocks merged: its own, less what each block saves."""
        return self.model_ms - sum(self.blocks[name].saved_ms(body) for name, body in bodies.items())

    def choose_bodies(self, names: Iterable[str], body: str = "auto") -> dict[str, str]:
        """The pruned body of each block: the one named, or the one that merges into the fastest form."""
        return {name: self.blocks[name].best_body() if body == "auto" else body for name in names}

    def choose_forms(self, bodies: dict[str, str]) -> dict[str, str]:
        """The fastest merged form of each block."""
        return {name: self.blocks[name].best_form(body) for name, body in bodies.items()}


@torch.no_grad()
def measure_latency(
    model: nn.Module, example: Tensor, progress: Progress | None = None, prepare: Prepare = lambda module, x: module
) -> LatencyTable:
    """Time every prunable block of a timm model on the input it sees for `example`, beside its merged forms.

    Blocks of the same structure and input shape are timed once. `example` is ``[N, C, H, W]`` on the model's device.
    `prepare` makes a module ready before it is timed on an input: `updp_rt.accelerate` for times on fused kernels.
    """
    progress = progress or Progress(show=False)
    device = example.device
    model = copy_model(model).eval()
    progressive = find_family(model).progressive
    names = prunable_blocks(model)
    inputs = block_inputs(model, names, example)
    measured: dict[str, BlockLatency] = {}
    table: dict[str, BlockLatency] = {}
    with progress.task("latency", len(names)) as advance:
        for name in names:
            key = f"{model.get_submodule(name)} {tuple(inputs[name].shape)}"
            if key not in measured:
                measured[key] = measure_block(progressive, model.get_submodule(name), inputs[name], prepare)
            table[name] = measured[key]
            advance(name)
    whole = time_side_by_side({"model": partial(prepare(model, example), example)}, device=device)
    return LatencyTable(
        device=describe_device(device), batch_size=len(example), model_ms=whole["model"] * 1e3, blocks=table
    )


def describe_device(device: torch.device) -> str:
    """Name of a device as a report gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


def measure_block(progressive: type[ProgressiveBlock], block: nn.Module, x: Tensor, prepare: Prepare) -> BlockLatency:
    """Time one block beside all its merged forms on the input `x`."""
    candidates: dict[str, nn.Module] = {"baseline": block}
    for body, forms in progressive.forms.items():
        pruned = progressive(copy_model(block), "block", body)
        set_lambda(pruned, 1.0)
        candidates |= {f"{body}/{form}": pruned.merge(form).eval() for form in forms}
    calls = {key: partial(prepare(module, x), x) for key, module in candidates.items()}
    times = time_side_by_side(calls, device=x.device)
    return BlockLatency(
        baseline_ms=times["baseline"] * 1e3,
        merged_ms={
            body: {form: times[f"{body}/{form}"] * 1e3 for form in forms} for body, forms in progressive.forms.items()
        },
    )


def block_inputs(model: nn.Module, names: list[str], example: Tensor) -> dict[str, Tensor]:
    """The input that each of these blocks sees when `model` runs on `example`."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0]

    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in names]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _fastest(times: dict[str, float]) -> str:
    best = next(iter(times))
    for name, value in times.items():
        if value < CLEARLY_FASTER * times[best]:
            best = name
    return best
