"""Whole models on the engines that people pick, and on the one that ``engine="auto"`` picks; P0 and with blocks merged.

Other engines run as they are, without the checks before a call that keep ours a drop-in. Each candidate runs alone for
a moment before it is timed, since threads of other runtimes go on spinning after a call. The blocks merged are those
that save most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.footprint import new_process
from benchmarks.grid import Grid, best, gain, grouped, median, ratio, slashed, what_is_missing
from benchmarks.models import MODELS, build_model, choose, merge
from benchmarks.numerics import require_merge, require_model
from benchmarks.protocol import Case, LeftOut, Measured, Record, Suite, race
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.runtime.engines import ENGINES, ConstantEngine, engine_of
from updp_rt.runtime.fastest import choice_of

_OTHERS = ("eager", "inductor", "onnxruntime", "openvino")
_OURS = ("modules", "auto")
_MERGED = {"resnet34": 8}
_ALONE_SECONDS = 0.1


def cases(settings: Settings) -> Iterator[Case]:
    """The models at their batch sizes and dtypes."""
    for name in settings.models or MODELS:
        counts = settings.pruned or (0, _MERGED.get(name, 6))
        names = tuple(f"P{count} {mode}" for count in counts for mode in (*_OTHERS, *_OURS))
        for dtype in settings.dtypes_or_default:
            for batch in settings.batches_or((1, 8), (1, 128)):
                about = {"model": name, "batch": batch, "dtype": dtype, "size": settings.image_size}
                key = f"{name} b{batch} {dtype} {settings.image_size}"
                yield Case(key, about, names, partial(measure, settings, name, batch, dtype, names))


def measure(settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], record: Record) -> Measured:
    """One case, in a process of its own: what others left in the heap would weigh on it."""
    with new_process(settings) as pool:
        return pool.submit(measure_here, settings, name, batch, dtype, names).result()


@torch.inference_mode()
def measure_here(settings: Settings, name: str, batch: int, dtype_name: str, names: tuple[str, ...]) -> Measured:
    """All candidates ("P6 auto") in turn."""
    torch.manual_seed(0)
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = build_model(name, size, settings.place, dtype)
    images = torch.randn(batch, 3, size, size, device=settings.place).to(dtype)
    choices = choose(model, images, [int(candidate.split()[0][1:]) for candidate in names])
    values: dict[str, dict[str, str]] = {}

    @cache
    def source_of(variant: str) -> nn.Module:
        if variant not in choices:
            raise LeftOut("the model has not as many blocks that can be pruned")
        require_merge(model, choices[variant], images[:1])
        return merge(model, choices[variant])

    def prepare(candidate: str) -> Callable[[], object]:
        variant, mode = candidate.split()
        source = source_of(variant)
        run, about = _ready(mode, source, images)
        require_model(run, source, images)
        values[candidate] = about
        return partial(run, images)

    entries = {candidate: partial(prepare, candidate) for candidate in names}
    found = race(settings, entries, round_seconds=0.15, alone_seconds=_ALONE_SECONDS)
    found.values = {candidate: about for candidate, about in values.items() if about}
    return found


def _ready(mode: str, source: nn.Module, images: Tensor) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    if mode == "eager":
        return source, {}
    if mode == "modules":
        return updp_rt.accelerate(source, images), {}
    if mode == "auto":
        fast = updp_rt.accelerate(source, images, engine="auto")
        refused = "; ".join(f"{name}: {why}" for name, why in choice_of(fast).refused.items())
        return fast, {"engine": engine_of(fast), "refused": refused}
    engine = ENGINES[mode]
    assert isinstance(engine, ConstantEngine)
    supported, reason = engine.supports(source, images)
    if not supported:
        raise LeftOut(reason)
    with torch.inference_mode(False), torch.no_grad():
        program = engine.build(source, images.clone(), wide=not engine.exact)
    return lambda x: program(x)[0], {}


def tables(rows: Sequence[Row]) -> list[Grid]:
    """``auto`` over the best of the others, unpruned and with blocks merged, batch sizes side by side."""
    grid = Grid(
        "engines: × faster, ratios of medians",
        ["model", "dtype", "batch", "picked", "auto over the best other", "merged", "merged, auto over the best other"],
    )
    all_gains: list[float | None] = []
    for (model, dtype), members in grouped(rows, "model", "dtype").items():
        found = list(by_case(members).values())
        batches = " / ".join(str(batch) for batch in dict.fromkeys(row["batch"] for row in members))
        most = f"P{max(int(row['candidate'].split()[0][1:]) for row in members)}"
        rivals = [best(case, [f"P0 {mode}" for mode in _OTHERS]) for case in found]
        gains = [ratio(rival, median(case, "P0 auto")) for rival, case in zip(rivals, found, strict=True)]
        merged = [ratio(rival, median(case, f"{most} auto")) for rival, case in zip(rivals, found, strict=True)]
        picked = " / ".join(str(case.get("P0 auto", {}).get("engine", "")) for case in found)
        grid.add(model, dtype, batches, picked, slashed(gains), most, slashed(merged))
        all_gains += gains
    grid.notes += [f"Unpruned, auto over the best other: {gain(all_gains)} in geometric mean (at least)."]
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "engines",
    "Whole models, P0 and P6, on eager torch, Inductor, ONNX Runtime, OpenVINO, and on what engine=auto picks.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "image_size", "pruned"),
    defaults={"rounds": 9, "seconds": 6.0},
    timed=True,
)
