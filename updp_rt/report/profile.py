"""How fast the merged model of a folder is: whole, block by block, kernel by kernel, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import updp_rt
from updp_rt._progress import steps
from updp_rt._timing import time_side_by_side
from updp_rt.artifacts import read_manifest
from updp_rt.artifacts.atomic import write_text
from updp_rt.blocks import find_blocks
from updp_rt.pruning.latency import block_inputs, describe_device
from updp_rt.pruning.run import SUMMARY
from updp_rt.report.collect import PROFILE, RUN, Missing, baseline_of, model_folder, read
from updp_rt.report.schema import EngineTimes, Identity, KernelTime, ModelTimes, Profile, Roof, Summary, Times
from updp_rt.runtime.dispatch import AccelerationError
from updp_rt.runtime.engines import runtimes_for
from updp_rt.runtime.explanation import Row
from updp_rt.runtime.roofline import peak

Calls = dict[tuple[str, str], Callable[[], object]]  # by block and variant

_WHOLE = ""  # the place of the whole model among its blocks


@torch.no_grad()
def profile(
    folder: str | Path,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    engine: str | None = None,
) -> Profile:
    """Time the merged model of `folder` beside its baseline, on a GPU if there is one; kept in ``profile.json`` there.

    Whole models and blocks are timed in turn, as they are and on fused kernels. The baseline is what the run started
    from (of a saved model timm's own), with fresh weights, on which speed does not depend. Tables of tuned kernels are
    read and written as `updp_rt.accelerate` does. Whole models are also timed on another engine.

    Args:
        folder: a run's, or a saved model's.
        batch_size: images at once; None takes the run's, so that figures of one page compare, and else 8.
        engine: as of `updp_rt.accelerate`; None takes a runtime that is installed, and ``modules`` leaves that out.

    Raises:
        ValueError: no folder of ours, or no merged model in it. `ArtifactError`: its model is damaged.
        AccelerationError: the engine asked for cannot run these models here.
    """
    folder = Path(folder)
    saved = model_folder(folder)
    manifest = read_manifest(saved)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    merged = updp_rt.load(saved).to(device, dtype)
    identity = read(folder / RUN, Identity) if saved != folder else manifest
    baseline = baseline_of(manifest if isinstance(identity, Missing) else identity).to(device, dtype)
    shape = (batch_size or _batch_size(folder), *manifest.input_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    fast = updp_rt.accelerate(merged, images)
    calls: Calls = {
        (_WHOLE, "baseline"): partial(baseline, images),
        (_WHOLE, "merged"): partial(merged, images),
        (_WHOLE, "baseline_accelerated"): partial(updp_rt.accelerate(baseline, images), images),
        (_WHOLE, "accelerated"): partial(fast, images),
        **_block_calls(baseline, merged, images),
    }
    # All in one go, so that a machine that slows down does so for the model and its blocks alike.
    timed: dict[str, dict[str, float]] = {}
    for (part, variant), seconds in time_side_by_side(calls, device=device, what="timing").items():
        timed.setdefault(part, {})[variant] = seconds * 1e3
    whole = ModelTimes(**timed.pop(_WHOLE), other=_engine_times(engine, baseline, merged, images))
    explanation, roof = updp_rt.explain(fast), peak(device)
    result = Profile(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        weights=manifest.sha256,
        input=shape,
        dtype=str(dtype).removeprefix("torch."),
        device=describe_device(device),
        environment=explanation.environment,
        roof=Roof(flops=roof.flops.get(dtype, roof.flops[torch.float32]), bandwidth=roof.bandwidth, source=roof.source),
        model=whole,
        blocks={name: Times(**times) for name, times in timed.items()},
        kernels=[_kernel_time(row) for row in explanation.rows],
        unfused=explanation.unfused,
    )
    write_text(folder / PROFILE, result.model_dump_json(indent=2) + "\n")
    return result


def _engine_times(engine: str | None, baseline: nn.Module, merged: nn.Module, images: Tensor) -> EngineTimes | None:
    """Both models on one engine; None where no other is there, or none can run them."""
    for name in [engine] if engine else runtimes_for(merged, images):
        if name == "modules":
            break
        try:
            models = {"baseline": baseline, "merged": merged}
            calls = {key: partial(updp_rt.accelerate(m, images, engine=name), images) for key, m in models.items()}
        except AccelerationError:
            if engine:
                raise
            continue
        # Threads of other runtimes go on spinning after a call.
        times = time_side_by_side(calls, rounds=7, round_seconds=0.02, alone_seconds=0.1, device=images.device)
        return EngineTimes(engine=name, **{key: seconds * 1e3 for key, seconds in times.items()})
    return None


def _batch_size(folder: Path) -> int:
    summary = read(folder / SUMMARY, Summary)
    return summary.batch_size if isinstance(summary, Summary) else 8


def _block_calls(baseline: nn.Module, merged: nn.Module, images: Tensor) -> Calls:
    """Every block alone, on the input it sees in its own model, which may have other channels: as it was, as it is in
    the merged model, and accelerated."""
    names = [block.name for block in find_blocks(baseline)]
    before, inputs = block_inputs(baseline, names, images), block_inputs(merged, names, images)
    calls: Calls = {}
    for name in steps(names, "accelerating blocks"):
        after, x = merged.get_submodule(name), inputs[name]
        # Between fused blocks images are in channels_last: a block alone must not pay for the change of layout.
        packed = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        calls[name, "baseline"] = partial(baseline.get_submodule(name), before[name])
        calls[name, "merged"] = partial(after, x)
        calls[name, "accelerated"] = partial(updp_rt.accelerate(after, packed), packed)
    return calls


def _kernel_time(row: Row) -> KernelTime:
    return KernelTime(
        module=row.module,
        source=row.source,
        operator=row.operator,
        problem=row.problem,
        kernel=row.kernel,
        why=row.why,
        ms=row.times_ms.get(row.kernel),
        others={name: ms for name, ms in row.times_ms.items() if name != row.kernel},
        roofline=row.roofline,
        flops=row.flops,
        bytes=row.bytes_moved,
    )
