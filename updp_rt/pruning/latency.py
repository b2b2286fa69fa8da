"""Measured latency of every block, as it is and in each of its merged forms, and of the model around them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._timing import time_side_by_side
from updp_rt.blocks import find_family, make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.inspect import form_label
from updp_rt.blocks.parts import AFFINE, SKIP, WHOLE, Part
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.pruning.config import ANY
from updp_rt.pruning.genes import segment_of
from updp_rt.pruning.joined import Joined, measure_joined
from updp_rt.pruning.progress import Progress

Prepare = Callable[[nn.Module, Tensor], nn.Module]


@dataclass(frozen=True)
class Kernels:
    """What runs the models that are timed: what will run the merged one.

    Attributes:
        prepare: makes a module ready before it is timed on an input.
        version: what times depend on besides the model, for a device: tables are kept by it. None: they are not kept.
    """

    name: str
    prepare: Prepare
    version: Callable[[torch.device], str] | None = None


PLAIN = Kernels("plain torch", lambda module, x: module)

AGAIN = 20.0  # seconds: blocks that are timed in less are timed twice, in case something else was running meanwhile
CLEARLY_FASTER = 0.9  # a form replaces the one listed before it only if it is at least 10% faster: noise decides less


class BlockLatency(BaseModel):
    """Median milliseconds of one block, and of its merged forms by pruned body and form.

    Attributes:
        skippable: whether it may be left out, which takes no time.
        affine_ms: of the affine map in its place; None where that was not measured.
    """

    model_config = ConfigDict(extra="forbid")

    baseline_ms: float
    merged_ms: dict[str, dict[str, float]]
    skippable: bool = False
    affine_ms: float | None = None

    def best_form(self, body: str) -> str:
        """The fastest merged form of a pruned body."""
        return WHOLE[body] if body in WHOLE else _fastest(self.merged_ms[body])

    def form_ms(self, body: str, form: str) -> float | None:
        """Of one merged form; None where it was not measured."""
        if body in WHOLE:
            return 0.0 if body == SKIP else self.affine_ms
        return self.merged_ms.get(body, {}).get(form)

    def best_body(self) -> str:
        """The pruned body whose best form is the fastest, of those that compute something."""
        return _fastest({body: forms[self.best_form(body)] for body, forms in self.merged_ms.items()})

    def worthwhile_bodies(self) -> tuple[str, ...]:
        """The fastest pruned body that merges, and all others faster than the block; last, what needs no block at all.

        That is an affine map only where the block cannot be left out: fitted as it is, and nothing trained yet, it
        would be taken before what is as fast or faster and does better trained (the study `field_cnn`).
        """
        best = self.best_body()
        others = [*self.merged_ms, SKIP if self.skippable else AFFINE]
        return best, *(body for body in others if body != best and self.is_faster(body))

    def is_faster(self, body: str) -> bool:
        """Whether the block is, in the best merged form of a pruned body."""
        return (body != AFFINE or self.affine_ms is not None) and self.saved_ms(body) > 0

    def by_label(self) -> dict[str, float]:
        """Of every merged form that was measured, under the name that `inspect` gives it; leaving a block out is 0."""
        whole = {AFFINE: self.affine_ms, SKIP: 0.0 if self.skippable else None}
        return {
            form_label(body, form, len(self.merged_ms)): ms
            for body, forms in self.merged_ms.items()
            for form, ms in forms.items()
        } | {body: ms for body, ms in whole.items() if ms is not None}

    def best_ms(self, body: str) -> float:
        """Of its fastest merged form."""
        found = self.form_ms(body, self.best_form(body))
        assert found is not None
        return found

    def pace(self) -> float:
        """How long all that was timed takes, as a geometric mean: larger where the machine was busy."""
        return statistics.geometric_mean([self.baseline_ms, *filter(None, self.by_label().values())])

    def saved_ms(self, body: str) -> float:
        """What the block saves in its best merged form; below 0 if that is slower."""
        return self.baseline_ms - self.best_ms(body)


class LatencyTable(BaseModel):
    """Latencies of a model's prunable blocks on one device at one batch size.

    Attributes:
        joined: neighbours as one convolution; empty where they were not measured.
        fastest_ms: of the whole model with every block merged that is faster so; None where none is, or where it was
            not measured.
        skipped_ms: of the whole model without the blocks that may be left out; None where none may, or where it was not
            measured.
        mapped_ms: of the whole model with each block an affine map that is faster so; None as for `fastest_ms`.
        kernels: what ran the models.
    """

    model_config = ConfigDict(extra="forbid")

    device: str
    batch_size: int
    model_ms: float
    blocks: dict[str, BlockLatency]
    joined: list[Joined] = []
    fastest_ms: float | None = None
    skipped_ms: float | None = None
    mapped_ms: float | None = None
    kernels: str = "plain torch"

    def estimate_ms(self, bodies: Mapping[str, str]) -> float:
        """The model's latency with these blocks merged: its own, less what each block saves in the model.

        Blocks are timed alone. In the model caches are warm or cold in other ways and kernels take in what lies between
        blocks, so all together save more or less than that; each is taken to save as much more or less: as blocks do
        that are merged, left out, or an affine map.
        """
        saved = dict.fromkeys(("", *WHOLE), 0.0)
        for name, text in bodies.items():
            body = Part.parse(text).body
            saved[body if body in WHOLE else ""] += self.blocks[name].saved_ms(body)
        saved[""] += sum(self.joining_saves(one) for one in self.joined if one.parts().items() <= bodies.items())
        return self.model_ms - sum(self.in_context(body) * ms for body, ms in saved.items())

    def in_context(self, body: str = "") -> float:
        """What all blocks that are faster so save in the model, over what they save alone: merged, or of one body."""
        ms = {SKIP: self.skipped_ms, AFFINE: self.mapped_ms}.get(body, self.fastest_ms)
        if body in WHOLE and ms is None:
            return self.in_context()  # of tables that were stored before
        alone = sum(self.blocks[name].saved_ms(each) for name, each in self.saving(body).items())
        return 1.0 if ms is None or alone <= 0 else max(0.0, (self.model_ms - ms) / alone)

    def saving(self, body: str = "") -> dict[str, str]:
        """The blocks that are faster merged, with the fastest body of each; or those that are faster with `body`."""
        if body == SKIP:
            return {name: body for name, block in self.blocks.items() if block.skippable}
        bodies = self.choose_bodies(self.blocks, body or "auto")
        return {name: each for name, each in bodies.items() if self.blocks[name].is_faster(each)}

    def choose_bodies(self, names: Iterable[str], body: str = "auto") -> dict[str, str]:
        """The pruned body of each block: the one named, or the one that merges into the fastest form.

        That one, too, where blocks are to be skipped and one cannot be.
        """

        def choose(block: BlockLatency) -> str:
            fastest = body in ("auto", ANY) or (body == SKIP and not block.skippable)
            return block.best_body() if fastest else body

        return {name: choose(self.blocks[name]) for name in names}

    def offer_bodies(self, names: Iterable[str], body: str = "auto") -> dict[str, tuple[str, ...]]:
        """The pruned bodies that a search may choose from for each block, the fastest first: one, unless any may be."""
        if body == ANY:
            return {name: self.blocks[name].worthwhile_bodies() for name in names}
        return {name: (one,) for name, one in self.choose_bodies(names, body).items()}

    def joining_saves(self, one: Joined) -> float:
        """Milliseconds that neighbours save as one convolution, beyond what each saves by itself."""
        return self._apart_ms(one) - one.ms

    def _apart_ms(self, one: Joined) -> float:
        return sum(self.blocks[name].best_ms(body) for name, body in zip(one.blocks, one.bodies, strict=True))

    def offer_segments(self, body: str = "auto") -> dict[str, dict[str, str]]:
        """By gene the neighbours that a search may join, those clearly faster so: none, unless any body may be."""
        clearly = [one for one in self.joined if one.ms < CLEARLY_FASTER * self._apart_ms(one)]
        return {segment_of(one.blocks): one.parts() for one in clearly} if body == ANY else {}

    def choose_forms(self, bodies: Mapping[str, str]) -> dict[str, str]:
        """The fastest merged form of each block."""
        return {name: self.blocks[name].best_form(body) for name, body in bodies.items()}


@torch.no_grad()
def measure_latency(
    model: nn.Module,
    example: Tensor,
    progress: Progress | None = None,
    prepare: Prepare = PLAIN.prepare,
    *,
    joined: bool = False,
) -> LatencyTable:
    """Time every prunable block of a timm model on the input it sees for `example`, beside its merged forms.

    The whole model is timed beside itself with every block merged that is faster so, without the blocks that may be
    left out, and with affine maps for those that are faster so; with `joined` also neighbours as one convolution,
    beside each merged by itself. Blocks of the same structure and input shape share their times, which are taken twice
    where that is quick (`AGAIN`).

    `example` is ``[N, C, H, W]`` on the model's device. `prepare` makes a module ready before it is timed on an input:
    `updp_rt.accelerate` for times on fused kernels.
    """
    progress = progress or Progress(show=False)
    device = example.device
    model = copy_model(model).eval()
    progressive = find_family(model).progressive
    names = prunable_blocks(model)
    inputs = block_inputs(model, names, example)
    alike = {name: f"{model.get_submodule(name)} {tuple(inputs[name].shape)}" for name in names}
    measured: dict[str, BlockLatency] = {}
    begun = time.monotonic()
    with progress.task("latency", len(names)) as advance:
        for name in names:
            if alike[name] not in measured:
                measured[alike[name]] = measure_block(progressive, model.get_submodule(name), inputs[name], prepare)
            advance(name)
    if time.monotonic() - begun < AGAIN:
        for key, name in {alike[name]: name for name in names}.items():
            again = measure_block(progressive, model.get_submodule(name), inputs[name], prepare)
            measured[key] = min(measured[key], again, key=BlockLatency.pace)
    table = {name: measured[alike[name]] for name in names}
    found = LatencyTable(device=describe_device(device), batch_size=len(example), model_ms=0.0, blocks=table)
    if joined:
        bodies = found.choose_bodies(names)
        ms = {name: table[name].best_ms(body) for name, body in bodies.items()}
        forms = found.choose_forms(bodies)
        pairs = measure_joined(model, bodies, forms, ms, inputs, example, prepare, progress)
        found = found.model_copy(update={"joined": pairs})
    models = {"model": model}
    for key, body in (("fastest", ""), ("skipped", SKIP), ("mapped", AFFINE)):
        if bodies := found.saving(body):
            pruned = make_progressive(model, bodies)
            set_lambda(pruned, 1.0)
            models[key] = merge_model(pruned, found.choose_forms(bodies))
    calls = {name: partial(prepare(each, example), example) for name, each in models.items()}
    ms = {name: seconds * 1e3 for name, seconds in time_side_by_side(calls, device=device).items()}
    return found.model_copy(update={f"{name}_ms": each for name, each in ms.items()})


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
    affine = progressive(copy_model(block), "block", AFFINE)
    set_lambda(affine, 1.0)
    candidates[AFFINE] = affine.merge().eval()
    calls = {key: partial(prepare(module, x), x) for key, module in candidates.items()}
    times = time_side_by_side(calls, device=x.device)
    return BlockLatency(
        baseline_ms=times["baseline"] * 1e3,
        merged_ms={
            body: {form: times[f"{body}/{form}"] * 1e3 for form in forms} for body, forms in progressive.forms.items()
        },
        skippable=progressive.skippable(block),
        affine_ms=times[AFFINE] * 1e3,
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
