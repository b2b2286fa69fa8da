"""The paper's comparisons on this device: ConvNeXt's P-variants among their peers, and DeiT-Tiny's.

As the paper does: batch 128, throughput of whole models in plain torch, and a speedup column relative to the slowest.
The peers are of the families that the paper compares with. Which sizes it took is not known to us; these are timm's
nearest in cost to ConvNeXt-Tiny and its P-variants. Our variants also run accelerated. The methods of the paper's DeiT
table are not in timm, so that table holds DeiT-Tiny's variants alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import build_model
from benchmarks.gpu_shapes import first_line
from benchmarks.suite import CLOCK, Case, Measured, Settings, Tell, parametrize, settings_of
from benchmarks.variants import (
    choose,
    costs,
    make_ready,
    merged_variant,
    turning,
    why_merge_is_wrong,
    why_model_is_wrong,
    with_layout,
)

SUITE = "paper"
pytestmark = pytest.mark.benchmark(timer=CLOCK)

SIZE = 224
PRUNED = (0, 3, 6, 9)
# By table: the model whose variants are compared, and its peers.
TABLES = {
    "ConvNeXt": (
        "convnext_tiny",
        (
            "efficientformerv2_s2",
            "efficientformerv2_l",
            "poolformer_s12",
            "poolformer_s24",
            "swin_tiny_patch4_window7_224",
            "regnetx_032",
            "regnety_032",
            "deit_small_patch16_224",
            "mobilenetv2_140",
        ),
    ),
    "DeiT": ("deit_tiny_patch16_224", ()),
}
_CHOSEN_ON = 8  # images that the blocks to merge are chosen on: their order hardly changes with more


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, list(paper_cases(settings_of(metafunc.config))))


def test_paper(case: Case, candidate: str, report: Callable[[Case, str], None]) -> None:
    report(case, candidate)


def paper_cases(settings: Settings) -> Iterator[Case]:
    """Both tables, of the models asked for."""
    for dtype in settings.dtypes or ("float32",):
        for batch in settings.batches or (128,):
            for table, (ours, peers) in TABLES.items():
                chosen = [name for name in (ours, *peers) if settings.models is None or name in settings.models]
                variants = [f"{ours} P{count}" for count in settings.pruned or PRUNED] if ours in chosen else []
                names = [f"{variant} {mode}" for variant in variants for mode in ("eager", "accelerated")]
                names += [f"{name} eager" for name in chosen if name != ours]
                about = {"table": table, "batch": batch, "dtype": dtype}
                key = f"{table} b{batch} {dtype}"
                yield Case(key, about, tuple(names), partial(measure, settings, batch, dtype, tuple(names)))


@torch.inference_mode()
def measure(settings: Settings, batch: int, dtype_name: str, names: tuple[str, ...], tell: Tell) -> Measured:
    """All models of a table in turn."""
    torch.manual_seed(0)
    dtype = getattr(torch, dtype_name)
    images = with_layout(torch.randn(batch, 3, SIZE, SIZE, device=settings.place).to(dtype), settings)
    found, calls = Measured(), {}
    sources = _sources(settings, images, names)
    for candidate in names:
        name, _, mode = candidate.rpartition(" ")
        if isinstance(sources[name], str):
            found.red[candidate] = sources[name]
            continue
        try:
            ready = make_ready(mode, sources[name], images, settings)
            reason = None if mode == "eager" else why_model_is_wrong(ready, sources[name], images)
        except Exception as error:
            reason = f"it failed: {first_line(error)}"
        if reason is not None:
            found.red[candidate] = reason
            continue
        tell(f"{candidate} is ready")
        calls[candidate] = turning(ready, tuple(images.shape), dtype, settings)
        found.candidates[candidate] = costs(sources[name], SIZE)
    limit = settings.seconds * len(calls)
    tell(f"{len(calls)} models in turn, {settings.rounds} rounds, no further one after {limit / 60:.0f} minutes")
    samples = settings.sample(calls, 0.15, each_round=lambda done: tell(f"round {done} is done"))
    found.samples = samples
    medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
    slowest = max((seconds for name, seconds in medians.items() if name.endswith(" eager")), default=math.nan)
    for name, seconds in medians.items():
        found.candidates[name] |= {
            "samples_per_sec": round(batch / seconds, 2),
            "speedup": round(slowest / seconds, 3),
        }
    return found


def _sources(settings: Settings, images: Tensor, names: tuple[str, ...]) -> dict[str, nn.Module | str]:
    """Each model by its name, with its variant where it has one; or why there is none."""
    wanted = dict.fromkeys(name.rpartition(" ")[0] for name in names)
    found: dict[str, nn.Module | str] = {}
    for base in dict.fromkeys(name.partition(" ")[0] for name in wanted):
        variants = [name.partition(" ")[2] for name in wanted if name.startswith(f"{base} ")]
        try:
            with torch.inference_mode(False), torch.no_grad():
                model = with_layout(build_model(base, SIZE, settings.place, images.dtype), settings)
                choices = choose(model, images[:_CHOSEN_ON], [int(variant[1:]) for variant in variants])
                found[base] = model
                for variant in variants:
                    if variant not in choices:
                        found[f"{base} {variant}"] = "it has not so many blocks that can be pruned"
                        continue
                    reason = why_merge_is_wrong(model, choices[variant], images[-1:])
                    found[f"{base} {variant}"] = reason or merged_variant(model, choices[variant], settings)
        except Exception as error:  # the other models are still worth having
            found |= dict.fromkeys(
                (n for n in wanted if n.partition(" ")[0] == base and n not in found), f"it failed: {first_line(error)}"
            )
    return found
