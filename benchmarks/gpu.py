"""One run on a GPU, NVIDIA's or AMD's: is every kernel right, how fast are whole models, how fast single operators.

Run ``python -m benchmarks.gpu`` from a checkout. Within its minutes it does first what matters most, and says what it
left out. Three parts, written to JSON as they come:

- numerics: each kernel, tile and dtype on odd shapes against float64; no speed is reported of one that fails.
- models: eager, ``torch.compile`` and accelerated, unpruned and with blocks merged, each also in a CUDA or HIP graph,
  in one interleaved run a row. Ratios are of medians, over the best of the baselines, which are all of the unpruned
  model. A row is only reported if the accelerated models' logits are within the bound of their sources'.
- operators: each problem that these models meet, its candidates as dispatch measured them one beside the other; and a
  spread of them on the device alone, beside ``torch.compile`` of the unfused operators.

HIP kernels take part where they were built for the device: ``updp-rt kernels build --arch sm_90``, say. On a CPU it
runs too, without graphs and without Triton's and HIP's kernels, to try it out.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import updp_rt
from benchmarks import gpu_shapes
from benchmarks.common import MODELS, build_model, longest_sum, merge_fastest, why_wrong, write_result
from benchmarks.gpu_budget import Budget
from benchmarks.gpu_tables import BASELINES, least, models_table, operators_table
from updp_rt._timing import time_side_by_side
from updp_rt.artifacts.atomic import write_json
from updp_rt.backends import Problem
from updp_rt.blocks import prunable_blocks
from updp_rt.runtime.device import device_name, environment
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.roofline import peak

PRUNED = {"resnet34": 8}
OPERATORS = ("linear", "conv2d", "depthwise_pointwise", "dual_linear", "epilogue")
ROOFLINE_BOUND = 0.7  # what ConvNeXt's merged block must reach of the memory's bandwidth
SPREAD = 12

console = Console(width=160)  # of a log, too


@dataclass
class Run:
    """What is measured how, and what was found so far."""

    device: torch.device
    dtype: torch.dtype
    image_size: int
    compile_mode: str
    rounds: int
    budget: Budget
    out: Path | None = None
    skipped: list[str] = field(default_factory=list)
    numerics: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    operators: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)

    def failures(self) -> dict[tuple[str, str, str], str]:
        """Why a kernel is not to be reported, by operator, dtype and candidate."""
        return {(r["operator"], r["dtype"], r["candidate"]): r["failed"] for r in self.numerics if "failed" in r}

    def wrong(self, problem: Problem, candidate: str) -> str | None:
        """Why `candidate` is not to be reported for `problem`."""
        return self.failures().get((problem.operator, _short(problem.dtype), candidate))

    def save(self) -> Path:
        """Write all that is known so far."""
        about = {
            "device": device_name(self.device),
            "environment": environment(self.device),
            "dtype": _short(self.dtype),
            "size": self.image_size,
            "compile_mode": self.compile_mode,
            "library_search": torch.backends.cudnn.benchmark,
            "peak": peak(self.device).source,
            "roofline_bound": ROOFLINE_BOUND,
            "seconds": round(self.budget.used, 1),
            "minutes": self.budget.seconds / 60,
            "left_out": self.budget.left_out,
            "skipped": self.skipped,
            "failures": [row for row in self.numerics if "failed" in row],
            "numerics": self.numerics,
            "operators": self.operators,
        }
        path = write_result(f"gpu-{_short(self.dtype)}", self.models, **about)
        if self.out is not None:
            write_json(self.out, {**about, "rows": self.models, "result": path.name})
        return path


def main(
    models: str = ",".join(MODELS),
    batches: str = "1,128,32",
    dtype: str = "float16",
    image_size: int = 224,
    device: str = "cuda",
    minutes: float = 8.0,
    compile_mode: str = "max-autotune",
    rounds: int = 9,
    library_search: bool = True,
    out: Path | None = None,
) -> None:
    """Check, then measure.

    Batches are measured in the order given. --compile-mode none leaves torch.compile out; --no-library-search keeps
    cuDNN or MIOpen from trying all of its algorithms, which is slow the first time with MIOpen.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; to try this benchmark on the CPU, give --device cpu")
    place = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)
    torch.backends.cudnn.benchmark = library_search
    torch.backends.cudnn.allow_tf32 = False  # products do not use it by default, nor do the fused kernels
    torch.manual_seed(0)
    run = Run(place, getattr(torch, dtype), image_size, compile_mode, rounds, Budget(minutes), out)
    if place.type != "cuda":
        run.skipped += ["graph variants: there are no graphs on the CPU", "Triton and HIP kernels: they run on GPUs"]
    if compile_mode == "none":
        run.skipped.append("torch.compile: --compile-mode none")
    check_numerics(run)
    for batch in map(int, batches.split(",")):
        for name in models.split(","):
            measure_model(run, name, batch)
    console.print(models_table(run.models))
    measure_operators(run)
    console.print(operators_table(run.operators))
    path = run.save()
    if run.budget.left_out:
        console.print(f"left out for want of time: {'; '.join(run.budget.left_out)}")
    console.print(f"{run.budget.used:.0f} s, written: {path}")


def check_numerics(run: Run) -> None:
    """Judge every kernel on odd shapes; the dtype to be measured first."""
    for dtype in sorted(gpu_shapes.DTYPES, key=lambda dtype: dtype != run.dtype):
        for operator in OPERATORS:
            if not run.budget.allows("numerics", f"{operator} {_short(dtype)}"):
                continue
            with run.budget.spending("numerics"):
                run.numerics += gpu_shapes.check_kernels(operator, dtype, run.device)
    kernels = {(row["operator"], row["dtype"], row["candidate"]) for row in run.numerics}
    console.print(f"{len(kernels)} kernels checked on {len(run.numerics)} problems, {len(run.failures())} wrong")
    for (operator, name, candidate), reason in run.failures().items():
        console.print(f"wrong: {candidate} for {operator} in {name}: {reason}", style="red", markup=False)
    run.save()


def measure_model(run: Run, name: str, batch: int) -> None:
    """Add one model's row at one batch size, and the problems it meets."""
    what = f"{name} at batch {batch}"
    if not run.budget.allows("models", what):
        return
    row: dict[str, Any] = {"model": name, "batch": batch}
    try:
        with run.budget.spending("models"):
            row |= _model_row(run, name, batch)
    except Exception as error:  # the other rows are still worth having
        row["withheld"] = f"it failed: {gpu_shapes.first_line(error)}"
    run.models.append(row)
    torch._dynamo.reset()
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    told = row.get("withheld") or ", ".join(f"{key} {ms:.3f} ms" for key, ms in row["times_ms"].items())
    console.print(f"{run.budget.used:4.0f} s  {what}: {told}", markup=False)
    run.save()


def _model_row(run: Run, name: str, batch: int) -> dict[str, Any]:
    model, images = build(run, name, batch)
    pruned = min(PRUNED.get(name, 6), len(prunable_blocks(model)))
    merged = merge_fastest(model, images, pruned, prepare=updp_rt.accelerate).to(memory_format=torch.channels_last)
    sources = {"accelerated": model, "merged_accelerated": merged}
    fast = {key: updp_rt.accelerate(source, images) for key, source in sources.items()}
    reasons = [
        collect(run, module, f"{name} b{batch}{' merged' * (key != 'accelerated')}") for key, module in fast.items()
    ]
    with torch.inference_mode():
        calls: dict[str, Callable[[], Tensor]] = {"eager": partial(model, images)}
        compiled = _compile(run, model, images, f"{name} at batch {batch}")
        calls |= {"compiled": compiled} if compiled else {}
        calls |= {key: partial(module, images) for key, module in fast.items()}
        if run.device.type == "cuda":
            calls |= graphs(run, calls, images, f"{name} at batch {batch}")
        for key, source in sources.items():
            exact = updp_rt.restore(fast[key]).double()(images[-2:].double())
            plain, length = source(images), longest_sum(source)
            for made in (made for made in calls if made.startswith(key)):
                reason = why_wrong(calls[made](), plain, exact, length)
                reasons.append(reason and f"{made}: {reason}")
        if any(reasons):
            return {"pruned": pruned, "withheld": "; ".join(filter(None, reasons))}
        times = time_side_by_side(calls, rounds=run.rounds, round_seconds=0.05, device=run.device)
    baselines = {key: times[key] for key in BASELINES if key in times}
    best = min(baselines, key=lambda key: baselines[key])
    return {
        "pruned": pruned,
        "times_ms": {key: seconds * 1e3 for key, seconds in times.items()},
        "best_baseline": best,
        "over_best_baseline": {key: times[best] / seconds for key, seconds in times.items() if key not in baselines},
        "over_eager": {key: times["eager"] / seconds for key, seconds in times.items() if key not in baselines},
    }


def build(run: Run, name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """A model whose norms and layer scales hide no mistake, and images, both in channels_last."""
    model = build_model(name, run.image_size, run.device, run.dtype).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, run.image_size, run.image_size, device=run.device)
    return model, images.to(run.dtype, memory_format=torch.channels_last)


def collect(run: Run, fast: nn.Module, where: str) -> str | None:
    """Add the problems that an accelerated model meets; says which kernel it runs that was found wrong, if any."""
    run.problems |= {
        choice.problem.key: choice.problem
        for _, module in fused_modules(fast)
        for site in module.fusion.sites.values()
        for choice in site.choices.values()
    }
    known = {row["problem"]: row for row in run.operators}
    reason = None
    for row in updp_rt.explain(fast).rows:
        problem = run.problems[row.problem]
        if run.wrong(problem, row.kernel):
            reason = f"{where}: {row.kernel} for {row.problem} was found wrong"
        if row.problem not in known:
            known[row.problem] = operator_row(run, problem, row.kernel, row.times_ms, row.demoted)
            run.operators.append(known[row.problem])
        if where not in known[row.problem]["met_in"]:
            known[row.problem]["met_in"].append(where)
    return reason


def operator_row(
    run: Run, problem: Problem, kernel: str, measured: dict[str, float], demoted: dict[str, str]
) -> dict[str, Any]:
    withheld = {name: reason for name in measured if (reason := demoted.get(name) or run.wrong(problem, name))}
    times = {name: ms for name, ms in measured.items() if name not in withheld}
    row: dict[str, Any] = {
        "problem": problem.key,
        "operator": problem.operator,
        "met_in": [],
        "times_ms": times,
        "withheld": {**demoted, **withheld},
        "bytes": problem.bytes_moved,
        "flops": problem.flops,
    }
    if kernel in times:
        row |= {"chosen": kernel, "roofline": peak(run.device).least_seconds(problem) * 1e3 / times[kernel]}
        row |= _ratio("chosen_over_unfused", times.get("reference"), times[kernel])
    fused = {name: ms for name, ms in times.items() if name != "reference"}
    if fused:
        row["best_fused"] = min(fused, key=lambda name: fused[name])
        vendor, own, hip = (least(fused, backend) for backend in ("vendor", "triton", "hip"))
        row |= _ratio("fused_over_unfused", times.get("reference"), fused[row["best_fused"]])
        row |= _ratio("fused_over_vendor", vendor, fused[row["best_fused"]])
        row |= _ratio("triton_over_vendor", vendor, own)
        row |= _ratio("hip_over_vendor", vendor, hip)
        row |= _ratio("hip_over_triton", own, hip)
    return row


@torch.inference_mode()
def _compile(run: Run, model: nn.Module, images: Tensor, what: str) -> Callable[[], Tensor] | None:
    if run.compile_mode == "none" or not run.budget.allows("compile", what):
        return None
    call = partial(torch.compile(model, mode=run.compile_mode, dynamic=False), images)
    try:
        with run.budget.spending("compile"):
            for _ in range(3):  # the second call records Inductor's graph, the third replays it
                call()
    except Exception as error:
        run.skipped.append(f"torch.compile of {what} failed: {gpu_shapes.first_line(error)}")
        return None
    return call


def graphs(
    run: Run, calls: dict[str, Callable[[], Tensor]], images: Tensor, what: str
) -> dict[str, Callable[[], Tensor]]:
    """All calls captured, but the compiled one, which may have graphs of its own."""
    found = {}
    for key, call in calls.items():
        if key == "compiled":
            continue
        try:
            found[f"{key}_graph"] = _with_graph(call, images)
        except Exception as error:
            run.skipped.append(f"graph of {key}, {what}: {gpu_shapes.first_line(error)}")
    return found


def _with_graph(call: Callable[[], Tensor], images: Tensor) -> Callable[[], Tensor]:
    """`call` captured; each replay copies the images in first, as Inductor's graphs do and as serving does."""
    replay, logits = gpu_shapes.graphed(call)
    given = images.clone()

    def run() -> Tensor:
        images.copy_(given)
        replay()
        return logits

    return run


def measure_operators(run: Run) -> None:
    """Time a spread of the problems met on the device alone, and all of the depthwise-pointwise ones."""
    chosen = gpu_shapes.spread(run.problems, SPREAD)
    blocks = [key for key, problem in run.problems.items() if problem.operator == "depthwise_pointwise"]
    rows = {row["problem"]: row for row in run.operators}
    for key in dict.fromkeys([*chosen, *blocks]):
        problem, row = run.problems[key], rows[key]
        mode = run.compile_mode if key in chosen and run.compile_mode != "none" else None
        if mode and not run.budget.allows("compiled operators", key):
            mode = None
        part = "compiled operators" if mode else "operators"
        if not mode and not run.budget.allows("operators", key):
            continue
        try:
            with run.budget.spending(part):
                times = gpu_shapes.device_times(problem, list(row["times_ms"]), run.device, mode)
        except Exception as error:
            run.skipped.append(f"{key} on the device: {gpu_shapes.first_line(error)}")
            continue
        row["device_ms"] = times
        fused = {name: ms for name, ms in times.items() if name not in ("reference", "compiled")}
        if not fused:
            continue
        best = min(fused.values())
        row |= _ratio("device_over_unfused", times.get("reference"), best)
        row |= _ratio("device_over_compiled", times.get("compiled"), best)
        if key in blocks:
            row["memory_roofline"] = problem.bytes_moved / peak(run.device).bandwidth * 1e3 / best
            row["meets_bound"] = row["memory_roofline"] >= ROOFLINE_BOUND
    run.save()


def _ratio(name: str, slow: float | None, fast: float | None) -> dict[str, float]:
    return {} if slow is None or fast is None else {name: slow / fast}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    typer.run(main)
