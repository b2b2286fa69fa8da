"""Models as the suites run them: pruned and merged variants; eager, compiled or accelerated; in graphs on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.others import run_in
from benchmarks.protocol import Case, Measured
from benchmarks.rotation import rotated
from benchmarks.settings import Settings
from updp_rt.blocks import count_costs, make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.pruning.latency import measure_latency
from updp_rt.runtime.engines import RUNTIMES

MODELS = ("resnet34", "mobilenetv2_100", "convnext_tiny", "deit_tiny_patch16_224")
MODES = ("eager", "compiled", "accelerated")

_MOST_IMAGES = 64  # batches of images, at most


def model_cases(
    settings: Settings, names_of: Callable[[str], tuple[str, ...]], measure: Callable[..., Measured]
) -> Iterator[Case]:
    """A case for each model, dtype and batch size.

    Args:
        names_of: the candidates of a model.
        measure: is given the settings, the model, batch size, dtype and candidates, and the record.
    """
    for name in settings.models or MODELS:
        names = names_of(name)
        for dtype in settings.dtypes_or_default:
            for batch in settings.batches_or((1, 8), (1, 128)):
                about = {"model": name, "batch": batch, "dtype": dtype, "size": settings.image_size}
                key = f"{name} b{batch} {dtype} {settings.image_size}"
                yield Case(key, about, names, partial(measure, settings, name, batch, dtype, names))


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


def choose(model: nn.Module, images: Tensor, counts: Sequence[int]) -> dict[str, Choice | None]:
    """The blocks to merge in each variant, as "P3", that the model has blocks enough for; none in "P0"."""
    wanted = [count for count in dict.fromkeys(counts) if count]
    if wanted:
        most = len(prunable_blocks(model))
        wanted = [count for count in wanted if count <= most]
    chosen = choose_fastest(model, images, wanted, prepare=updp_rt.accelerate) if wanted else {}
    return {"P0": None} | {f"P{count}": choice for count, choice in chosen.items()}


def prune(model: nn.Module, choice: Choice) -> nn.Module:
    """`model` with the chosen blocks in their pruned form, not merged yet."""
    subnet = make_progressive(model, choice.bodies)
    set_lambda(subnet, 1.0)
    return subnet


def merge(model: nn.Module, choice: Choice | None) -> nn.Module:
    """`model` with the chosen blocks merged; itself where none are."""
    return model if choice is None else merge_model(prune(model, choice), choice.forms)


def with_layout(value: Any, settings: Settings) -> Any:
    """A model or images in channels_last, if the settings ask for it."""
    return value.to(memory_format=torch.channels_last) if settings.channels_last else value


def make_ready(
    mode: str, module: nn.Module, example: Tensor, settings: Settings, engine: str = "modules"
) -> Callable[[Tensor], Tensor]:
    """`module` in one of `MODES` or `RUNTIMES`, an accelerated one on `engine`; compiled and measured on `example`."""
    if mode == "eager":
        return module
    if mode in RUNTIMES:
        return run_in(mode, module, example)
    if mode == "accelerated":
        return updp_rt.accelerate(module, example, engine=engine)
    if settings.compiler == "inductor":
        import torch._inductor.config as inductor

        inductor.freezing = not settings.on_gpu  # as those who serve on a CPU do
    compiled: Any = torch.compile(
        copy.deepcopy(module), backend=settings.compiler, mode=settings.compile_mode, dynamic=False
    )
    compiled(example)
    return compiled


def rotating_images(shape: tuple[int, ...], dtype: torch.dtype, settings: Settings) -> list[Tensor]:
    """Inputs past the cache, for `turning`."""
    inputs = rotated(shape, dtype, settings.place, most=_MOST_IMAGES)
    if len(shape) == 4 and not settings.channels_last:
        inputs = [x.permute(0, 2, 3, 1).view(shape) for x in inputs]  # the same memory, read in torch's own layout
    return inputs


def graphed(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Capture `run` into a CUDA or HIP graph: its replay, and the result that each replay writes again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries allocate and choose their kernels at the first calls
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


def in_graph(module: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """`module` captured; each call copies the images in first, as Inductor's graphs do and as serving does."""
    held = example.clone()
    replay, logits = graphed(partial(module, held))

    def run(images: Tensor) -> Tensor:
        held.copy_(images)
        replay()
        return logits

    return run


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
