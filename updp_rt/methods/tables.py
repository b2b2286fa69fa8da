"""The tables that segments are chosen by: the latency of each merged, and the accuracy after a short training of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, ValidationError
from timm.optim import create_optimizer_v2
from torch import nn

from updp_rt._copies import copy_model, copy_shapes
from updp_rt._timing import time_side_by_side
from updp_rt.artifacts.atomic import write_text
from updp_rt.blocks import ProgressiveBlock, make_progressive, progressive_blocks, set_lambda
from updp_rt.blocks.parts import APART, JOINED, LINEAR, Part
from updp_rt.blocks.segments import is_too_dense, joinable, make_segment, make_segments, neighbours
from updp_rt.pruning.latency import LatencyTable, block_inputs
from updp_rt.pruning.programming import fastest_split
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import rate, seed_everything

LONGEST = 3  # blocks in a segment
TABLE, JOURNAL = "segments.json", "segments.journal"

Dropped = tuple[str, ...]
Ways = Callable[[Sequence[ProgressiveBlock]], list[tuple[Dropped, ...]]]


class Row(BaseModel):
    """One segment: the blocks from `first` to `last` (counted from 0), and what becomes of each."""

    model_config = ConfigDict(extra="forbid")

    first: int
    last: int
    bodies: dict[str, str]
    ms: float
    accuracy: float | None = None

    @property
    def key(self) -> str:
        return ", ".join(f"{name} {body}" for name, body in self.bodies.items())


class SegmentTable(BaseModel):
    """All segments that save time, and the accuracy of the model itself after as short a training; `run`: which run."""

    model_config = ConfigDict(extra="forbid")

    run: dict[str, Any]
    rows: list[Row]
    accuracy: float | None = None


def segment_table(run: Run, table: LatencyTable, bodies: dict[str, str], ways: Ways) -> SegmentTable:
    """The run's table, made by its main process; one that was stopped goes on after the last entry.

    Args:
        bodies: the pruned body of each block.
        ways: the convolutions to leave out of each block of a segment, for every entry it has.
    """
    run.on_main(TABLE, lambda: run.store(TABLE, _make(run, table, bodies, ways)))
    return run.load(TABLE, SegmentTable)


def _make(run: Run, table: LatencyTable, bodies: dict[str, str], ways: Ways) -> SegmentTable:
    journal = run.folder / JOURNAL
    found = None
    if journal.exists():
        try:
            found = SegmentTable.model_validate_json(journal.read_bytes())
        except ValidationError:
            run.progress.log(f"{JOURNAL} is damaged: its segments are judged again")
    if found is None or found.run != run.identity:
        found = SegmentTable(run=run.identity, rows=measure_segments(run, table, bodies, ways))
        write_text(journal, found.model_dump_json())
    steps = entry_steps(run, len(found.rows) + 1)
    run.progress.log(f"{len(found.rows)} segments save time; each is trained for {steps} steps")
    waiting = [row for row in found.rows if row.accuracy is None]
    done = len(found.rows) - len(waiting) + (found.accuracy is not None)
    with run.progress.task("search", len(found.rows) + 1, done) as advance:
        if found.accuracy is None:
            found.accuracy = judge(run, copy_model(run.model), steps)
            advance("the model itself")
        for row in waiting:
            subnet = make_segments(run.model, row.bodies)
            set_lambda(subnet, 1.0)
            row.accuracy = judge(run, subnet, steps)
            write_text(journal, found.model_dump_json())
            run.progress.log(f"segment: {row.key}: accuracy {row.accuracy:.4g}, {row.ms:.3g} ms")
            advance(f"{row.accuracy:.3f}")
    return found


def entry_steps(run: Run, entries: int) -> int:
    """Steps that each entry is trained for: together as many as UPDP's supernet takes passes, each an epoch at most."""
    config, epoch = run.config, len(run.train_loader)
    return min(epoch, max(1, config.supernet_epochs * epoch * (2 + config.random_subnets) // entries))


def judge(run: Run, model: nn.Module, steps: int) -> float:
    """Validation accuracy of `model` after so many steps on the same batches; 0 where the training diverges."""
    config = run.config
    seed_everything(config.seed, "importance", 0)
    model = model.to(run.device).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)
    for step, (images, labels) in enumerate(islice(run.train_loader, steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group.get("lr_scale", 1.0) * rate(step, steps, config.warmup)
        with run.accelerator.autocast():
            logits = model(images.to(run.device))
            loss = F.cross_entropy(logits, labels.to(run.device), label_smoothing=config.label_smoothing)
        if not math.isfinite(float(loss.detach())):
            return 0.0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.progress.still_here()
    recalibrate(model.eval(), run.recalibration_batches)
    return run.evaluate(model)


def measure_segments(run: Run, table: LatencyTable, bodies: dict[str, str], ways: Ways) -> list[Row]:
    """The segments of up to `LONGEST` blocks that save time, each in the split that is the fastest."""
    model = copy_model(run.model).to(run.device).eval()
    shapes = copy_shapes(run.model)
    blocks = progressive_blocks(make_progressive(model, bodies))
    together = neighbours(model, run.names, run.example[:1])
    times = _PieceTimes(run, table, model, shapes, bodies)
    rows = []
    with run.progress.task("segments", len(run.names)) as advance:
        for first, start in enumerate(run.names):
            for last in range(first, min(first + LONGEST, len(run.names))):
                names = run.names[first : last + 1]
                if last > first and not (
                    names[-1] in together and joinable(blocks[names[-1]]) and joinable(blocks[start])
                ):
                    break
                before = sum(table.blocks[name].baseline_ms for name in names)
                for dropped in ways([blocks[name] for name in names]):
                    ms, heads = fastest_split(len(names), partial(times.of, names, dropped))
                    if len(names) == 1 and not dropped[0]:  # on its own it takes any form that it has
                        ms = before - table.blocks[start].saved_ms(bodies[start])
                    if ms < before:
                        rows.append(Row(first=first, last=last, bodies=_told(names, bodies, dropped, heads), ms=ms))
            advance(start)
    return rows


def _told(
    names: Sequence[str], bodies: dict[str, str], dropped: Sequence[Dropped], heads: Sequence[int]
) -> dict[str, str]:
    """Each block's part, as text; `heads` are the first blocks of the pieces."""
    links = [APART if i == 0 else LINEAR if i in heads else JOINED for i in range(len(names))]
    parts = [Part(bodies[name], link, left) for name, link, left in zip(names, links, dropped, strict=True)]
    return {name: str(part) for name, part in zip(names, parts, strict=True)}


class _PieceTimes:
    """Milliseconds of runs of blocks merged into one convolution with its activation, on the table's scale."""

    def __init__(
        self, run: Run, table: LatencyTable, model: nn.Module, shapes: nn.Module, bodies: dict[str, str]
    ) -> None:
        self._table, self._model, self._shapes, self._bodies = table, model, shapes, bodies
        self._inputs = block_inputs(model, run.names, run.example)
        self._prepare = run.kernels.prepare
        self._known: dict[str, float] = {}  # by what is computed
        self._asked: dict[tuple[tuple[str, ...], tuple[Dropped, ...]], float] = {}

    def of(self, names: Sequence[str], dropped: Sequence[Dropped], first: int, last: int) -> float:
        """Of the blocks from `first` to `last` among `names`, as one convolution; infinite where that is too dense."""
        names, dropped = names[first : last + 1], dropped[first : last + 1]
        if len(names) == 1 and not dropped[0]:
            return self._table.blocks[names[0]].merged_ms[self._bodies[names[0]]].get("conv", math.inf)
        asked = (tuple(names), tuple(dropped))
        if asked not in self._asked:
            self._asked[asked] = self._measure(names, dropped)
        return self._asked[asked]

    def _measure(self, names: Sequence[str], dropped: Sequence[Dropped]) -> float:
        segment = make_segment(self._shapes, _told(names, self._bodies, dropped, (0,)))
        merged = segment.merge()
        baseline = [self._model.get_submodule(name) for name in names]
        if is_too_dense(merged, baseline):
            return math.inf
        x = self._inputs[names[0]]
        key = f"{merged} {tuple(x.shape)} {[str(block) for block in baseline]}"
        if key not in self._known:
            merged = merged.to_empty(device=x.device)
            for parameter in merged.parameters():
                nn.init.normal_(parameter, std=0.02)
            models = {"blocks": nn.Sequential(*baseline).eval(), "merged": merged.eval()}
            with torch.no_grad():
                calls = {name: partial(self._prepare(each, x), x) for name, each in models.items()}
                times = time_side_by_side(calls, device=x.device)
            self._known[key] = times["merged"] / times["blocks"]
        return self._known[key] * sum(self._table.blocks[name].baseline_ms for name in names)
