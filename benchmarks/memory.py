"""Memory that `accelerate` adds, against the bytes of the weights: at most one packed copy of them.

Run ``python -m benchmarks.memory``. Each model is measured in a process of its own, with a warm tuned table, as the
growth of the resident set once freed memory has been returned to the system. It has accelerated another model of the
same kind before, so that code which is loaded or generated once is not counted.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table

import updp_rt
from benchmarks.common import MODELS, write_result


def main(batch: int = 1) -> None:
    """Measure all four models in float32 and bfloat16."""
    table = Table(title=f"memory added by accelerate, batch {batch}", title_justify="left")
    for column in ("model", "dtype", "weights", "added", "copies"):
        table.add_column(column)
    rows = []
    for name in MODELS:
        for dtype in ("float32", "bfloat16"):
            for _ in range(2):  # the first run fills the tuned table, so that the second measures nothing
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    row = pool.submit(added_memory, name, dtype, batch).result()
            rows.append(row)
            megabytes = [f"{row[key] / 2**20:.1f} MB" for key in ("weights_bytes", "added_bytes")]
            table.add_row(name, dtype, *megabytes, f"{row['added_bytes'] / row['weights_bytes']:.2f}")
    Console().print(table)
    Console().print(f"written: {write_result('memory', rows, batch=batch)}")


def added_memory(name: str, dtype: str, batch: int) -> dict[str, Any]:
    """One row, for a model run once before and once after it is accelerated in place."""
    first, model = (timm.create_model(name).eval().to(getattr(torch, dtype)) for _ in range(2))
    images = torch.randn(batch, 3, 224, 224).to(getattr(torch, dtype))
    with torch.inference_mode():
        updp_rt.accelerate(first, images, inplace=True)
        del first
        model(images)
        before = resident_bytes()
        updp_rt.accelerate(model, images, inplace=True)
        model(images)
    added = resident_bytes() - before
    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    return {"model": name, "dtype": dtype, "weights_bytes": weights, "added_bytes": added}


def resident_bytes() -> int:
    """The resident set of this process, freed memory returned first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    typer.run(main)
