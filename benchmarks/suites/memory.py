"""Memory that `accelerate` adds, against the bytes of the weights: at most one packed copy of them.

Each model is measured in a process of its own, with a warm tuned table, as the growth of the resident set once freed
memory has been returned to the system. It has accelerated another model of the same kind before, so that code which is
loaded or generated once is not counted.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import timm
import torch

import updp_rt
from benchmarks.footprint import resident_bytes
from benchmarks.grid import Grid, what_is_missing
from benchmarks.models import MODELS
from benchmarks.protocol import Case, Measured, Record, Suite
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings

SIZE = 224


def cases(settings: Settings) -> Iterator[Case]:
    """The models in their dtypes."""
    for name in settings.models or MODELS:
        for dtype in settings.dtypes_or_default:
            for batch in settings.batches or (1,):
                about = {"model": name, "dtype": dtype, "batch": batch}
                yield _case(f"{name} b{batch} {dtype}", about, name, dtype, batch)


def _case(key: str, about: dict[str, object], name: str, dtype: str, batch: int) -> Case:
    def measure(record: Record) -> Measured:
        for _ in range(2):  # the first run fills the tuned table, so that the second measures nothing
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(added_memory, name, dtype, batch).result()
        return Measured(values={"accelerated": found})

    return Case(key, about, ("accelerated",), measure)


def added_memory(name: str, dtype: str, batch: int) -> dict[str, int]:
    """Bytes of a model's weights, and those added when it, run before, is accelerated in place."""
    first, model = (timm.create_model(name).eval().to(getattr(torch, dtype)) for _ in range(2))
    images = torch.randn(batch, 3, SIZE, SIZE).to(getattr(torch, dtype))
    with torch.inference_mode():
        updp_rt.accelerate(first, images, inplace=True)
        del first
        model(images)
        before = resident_bytes()
        updp_rt.accelerate(model, images, inplace=True)
        model(images)
    added = resident_bytes() - before
    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    return {"weights_bytes": weights, "added_bytes": added}


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Copies of the weights that are added."""
    grid = Grid("memory added by accelerate", ("model", "dtype", "batch", "weights", "added", "copies"))
    for case in by_case(rows).values():
        row = case["accelerated"]
        megabytes = (f"{row[key] / 2**20:.1f} MB" for key in ("weights_bytes", "added_bytes"))
        grid.add(
            row["model"], row["dtype"], row["batch"], *megabytes, f"{row['added_bytes'] / row['weights_bytes']:.2f}"
        )
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "memory",
    "Memory that accelerate adds to a model, on the CPU.",
    cases,
    tables,
    options=("models", "batches", "dtypes"),
    defaults={"device": "cpu", "dtypes": ("float32", "bfloat16")},
)
