"""Memory of this process and of a model in it. To be called in a process of its own, which it leaves changed."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Choice, build_model, make_ready, merge, with_layout
from benchmarks.settings import Settings


def new_process(settings: Settings) -> ProcessPoolExecutor:
    """A process that has imported all it needs and done nothing else."""
    if settings.on_gpu:
        context: Any = multiprocessing.get_context("spawn")  # one that has looked for GPUs may not be forked
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.suites.models"])
    return ProcessPoolExecutor(1, mp_context=context)


def resident_bytes() -> int:
    """The resident set of this process, freed memory returned first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.inference_mode()
def peak_memory(
    settings: Settings, name: str, batch: int, dtype: torch.dtype, choice: Choice | None, mode: str
) -> float | None:
    """MB that a model in one mode takes at most while it runs: weights, packed copies, activations, and on a CPU also
    the code that the mode loads (a compiler, say).

    Making the model ready is not counted. None: this system does not tell.
    """
    place = settings.place
    before = 0 if settings.on_gpu else resident_bytes()
    images = torch.randn(batch, 3, settings.image_size, settings.image_size, device=place).to(dtype)
    model = with_layout(build_model(name, settings.image_size, place, dtype), settings)
    ready = make_ready(mode, with_layout(merge(model, choice), settings), images, settings)
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
