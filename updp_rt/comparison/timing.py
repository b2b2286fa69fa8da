"""The latency of every model of a comparison on one machine: the models of a seed in turn, with its baseline."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

import updp_rt
from updp_rt._timing import time_side_by_side
from updp_rt.artifacts import read_manifest
from updp_rt.artifacts.atomic import write_text
from updp_rt.comparison.jobs import ROWS, model_folder, read_outcome
from updp_rt.comparison.plan import Job
from updp_rt.pruning import RunError
from updp_rt.pruning.latency import describe_device
from updp_rt.pruning.progress import Progress

LATENCY = "latency.json"


class Latencies(BaseModel):
    """Milliseconds of a batch, by the job that a model came of; `accelerated`: on fused kernels."""

    model_config = ConfigDict(extra="forbid")

    device: str
    batch_size: int
    accelerated: bool
    ms: dict[str, float]


@torch.no_grad()
def measure(
    folder: Path,
    batch_size: int,
    *,
    device: torch.device | None = None,
    accelerated: bool = True,
    again: bool = False,
    progress: Progress | None = None,
) -> Latencies:
    """Time the models of all jobs done; kept in ``latency.json``, and repeated where that is of other models or ways.

    The models of one seed and its baseline take turns, so that a machine that slows down does so for all of them.

    Raises:
        RunError: an accelerated model fails its certificate.
    """
    progress = progress or Progress(folder / "log.txt")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for path in sorted((folder / ROWS).glob("*.json")) if not (row := read_outcome(path)).failed]
    done = {job.key: job for job in (Job(row.method, row.goal, row.seed) for row in rows)}
    how = Latencies(device=describe_device(device), batch_size=batch_size, accelerated=accelerated, ms={})
    known = read_latencies(folder)
    if known is not None and not again and set(known.ms) == set(done) and known.model_copy(update={"ms": {}}) == how:
        return known
    with progress.task("latency", len(done)) as advance:
        for seed in sorted({job.seed for job in done.values()}):
            calls = {}
            for key, job in done.items():
                if job.seed != seed:
                    continue
                saved = model_folder(folder, job)
                shape = (batch_size, *read_manifest(saved).input_size)
                images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
                calls[key] = partial(_ready(saved, images, accelerated), images)
                advance(key)
            times = time_side_by_side(calls, device=device, round_seconds=0.02)
            how.ms.update({key: seconds * 1e3 for key, seconds in times.items()})
    write_text(folder / LATENCY, how.model_dump_json(indent=2) + "\n")
    return how


def read_latencies(folder: Path) -> Latencies | None:
    """What was measured, or None; raises `RunError` where it is damaged."""
    path = folder / LATENCY
    if not path.exists():
        return None
    try:
        return Latencies.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: damaged ({error.error_count()} errors); delete it to measure again") from error


def _ready(saved: Path, images: Tensor, accelerated: bool) -> nn.Module:
    model = updp_rt.load(saved).to(images.device)
    if not accelerated:
        return model
    fast = updp_rt.accelerate(model, images)
    certificate = updp_rt.verify(model, fast, images)
    if not certificate.passed:
        raise RunError(
            f"{saved}: accelerated it computes something else ({', '.join(certificate.failed[:5])}), so it is not "
            "timed; compare the models as they are (--plain)"
        )
    return fast
