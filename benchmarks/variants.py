"""Models as the suites run them: pruned and merged variants, eager, compiled or accelerated, judged before timed."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.common import Choice, build_model, choose_fastest, longest_sum, prune, why_wrong
from benchmarks.memory import resident_bytes
from benchmarks.rotation import rotated
from benchmarks.suite import Settings
from updp_rt.blocks import count_costs, merge_model, prunable_blocks

MODES = ("eager", "compiled", "accelerated")
MERGE_BOUND = 1e-12  # relative, in float64: merging is exact

_MOST_IMAGES = 64  # batches of images, at most


def make_ready(mode: str, module: nn.Module, example: Tensor, settings: Settings) -> nn.Module:
    """`module` in one of `MODES`; compiled and measured on `example`."""
    if mode == "eager":
        return module
    if mode == "accelerated":
        return updp_rt.accelerate(module, example)
    if settings.compiler == "inductor":
        import torch._inductor.config as inductor

        inductor.freezing = not settings.on_gpu  # as those who serve on a CPU do
    compiled: Any = torch.compile(
        copy.deepcopy(module), backend=settings.compiler, mode=settings.compile_mode, dynamic=False
    )
    compiled(example)
    return compiled


def merged_variant(model: nn.Module, choice: Choice | None, settings: Settings) -> nn.Module:
    """`model` with the chosen blocks merged; itself where none are."""
    if choice is None:
        return model
    return with_layout(merge_model(prune(model, choice), choice.forms), settings)


def with_layout(value: Any, settings: Settings) -> Any:
    """A model or images in channels_last, if the settings ask for it."""
    return value.to(memory_format=torch.channels_last) if settings.channels_last else value


def choose(model: nn.Module, images: Tensor, counts: Sequence[int]) -> dict[str, Choice | None]:
    """The blocks to merge in each variant, as "P3", that the model has blocks enough for; none in "P0"."""
    wanted = [count for count in dict.fromkeys(counts) if count]
    if wanted:
        most = len(prunable_blocks(model))
        wanted = [count for count in wanted if count <= most]
    chosen = choose_fastest(model, images, wanted, prepare=updp_rt.accelerate) if wanted else {}
    return {"P0": None} | {f"P{count}": choice for count, choice in chosen.items()}


def why_merge_is_wrong(model: nn.Module, choice: Choice | None, image: Tensor) -> str | None:
    """Why a merged model is wrong, against the pruned one in float64; None: it is right, or nothing is merged."""
    if choice is None:
        return None
    with torch.inference_mode(False), torch.no_grad():
        subnet, image = prune(copy.deepcopy(model).double(), choice), image.double()
        return why_not_merged(subnet(image), merge_model(subnet, choice.forms)(image))


def why_not_merged(pruned: Tensor, merged: Tensor) -> str | None:
    """Why float64 results of a pruned and a merged form are not the same."""
    error = float((merged - pruned).abs().max() / pruned.abs().max())
    # Written so that a NaN is wrong.
    return None if error <= MERGE_BOUND else f"the merge is off by {error:.1e} in float64"


def why_model_is_wrong(ready: Callable[[Tensor], Tensor], source: nn.Module, images: Tensor) -> str | None:
    """Why `ready` disagrees with `source`, which it was made from, on the last image."""
    with torch.inference_mode(False), torch.no_grad():
        exact = copy.deepcopy(source).double()(images[-1:].double())
    return why_wrong(ready(images), source(images), exact, longest_sum(source))


def turning(module: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, settings: Settings) -> Any:
    """A call of `module` on inputs that rotate past the cache."""
    inputs = rotated(shape, dtype, settings.place, most=_MOST_IMAGES)
    if len(shape) == 4 and not settings.channels_last:
        inputs = [x.permute(0, 2, 3, 1).view(shape) for x in inputs]  # the same memory, read in torch's own layout
    return partial(_run_next, module, cycle(inputs))


def _run_next(module: Callable[[Tensor], Tensor], inputs: Any) -> Tensor:
    return module(next(inputs))


def costs(model: nn.Module, size: int) -> dict[str, float]:
    """Millions of parameters, GMACs, and millions of activations for one image, as timm's benchmark.py counts them."""
    cost, _ = count_costs(model, (3, size, size))
    return {
        "param_count": round(cost.params / 1e6, 2),
        "gmacs": round(cost.macs / 1e9, 2),
        "macts": round(_activations(model, size) / 1e6, 2),
    }


def _activations(model: nn.Module, size: int) -> int:
    """Elements that the convolutions and linear layers give for one image."""
    model = copy.deepcopy(model).to("meta")
    counts: list[int] = []

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        counts.append(output.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, 3, size, size, device="meta", dtype=next(model.parameters()).dtype))
    return sum(counts)


@torch.inference_mode()
def peak_memory(
    settings: Settings, name: str, batch: int, dtype: torch.dtype, choice: Choice | None, mode: str
) -> float | None:
    """MB that a model in one mode takes at most while it runs: weights, packed copies, activations, and on a CPU also
    the code that the mode loads (a compiler, say). To be called in a process of its own, which it leaves changed.

    Making the model ready is not counted. None: this system does not tell.
    """
    place = settings.place
    before = 0 if settings.on_gpu else resident_bytes()
    images = torch.randn(batch, 3, settings.image_size, settings.image_size, device=place).to(dtype)
    model = with_layout(build_model(name, settings.image_size, place, dtype), settings)
    ready = make_ready(mode, merged_variant(model, choice, settings), images, settings)
    del model
    ready(images)
    gc.collect()
    if settings.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)
        ready(images)
        torch.cuda.synchronize(place)
        return round(torch.cuda.max_memory_allocated(place) / 2**20, 1)
    resident_bytes()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    except OSError:
        return None
    ready(images)
    marks = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round((int(marks["VmHWM"].split()[0]) * 1024 - before) / 2**20, 1)
