"""Accelerated models against eager torch and against torch.compile with freezing, on the CPU, at 224.

Run ``python -m benchmarks.accelerated``. Each row is one interleaved run: the baseline in eager, the baseline under
frozen Inductor, the baseline accelerated, and the model with 6 blocks merged (ResNet34: half of them) accelerated.
Ratios are of medians, and each row has a process of its own. A row is only written if the accelerated models' logits
are within the bound of their sources'.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import updp_rt
from benchmarks.common import MODELS, merge_fastest, write_result
from updp_rt._timing import time_side_by_side

PRUNED = {"resnet34": 8}


def logit_error(fast: nn.Module, source: nn.Module, images: Tensor) -> tuple[float, float]:
    """Largest error of the logits against float64, of `fast` and of `source`."""
    exact = updp_rt.restore(fast).double()(images.double())
    return float((fast(images) - exact).abs().max()), float((source(images) - exact).abs().max())


def main(
    models: str = ",".join(MODELS), batches: str = "1,8", dtypes: str = "float32,bfloat16", rounds: int = 9
) -> None:
    """Measure the given models, batch sizes and dtypes."""
    rows: list[dict[str, Any]] = []
    for name in models.split(","):
        for dtype in dtypes.split(","):
            for batch in map(int, batches.split(",")):
                # A process of its own: what models before it left in the heap and the caches would weigh on the row.
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    rows.append(pool.submit(measure, name, batch, dtype, rounds).result())
                print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
    table = Table(title="accelerated, against frozen Inductor of the unpruned model", title_justify="left")
    for column in ("model", "dtype", "batch", "eager", "Inductor", "accelerated", "merged + accelerated"):
        table.add_column(column)
    for row in rows:
        times = [f"{row[key]:.2f} ms" for key in ("eager_ms", "inductor_ms")]
        fast = [f"{row['inductor_ms'] / row[key]:.2f}×" for key in ("accelerated_ms", "merged_accelerated_ms")]
        table.add_row(row["model"], row["dtype"], str(row["batch"]), *times, *fast)
    gains = [math.log(row["inductor_ms"] / row["accelerated_ms"]) for row in rows]
    table.caption = f"unpruned, geometric mean over Inductor: {math.exp(sum(gains) / len(gains)):.3f}×"
    Console().print(table)
    Console().print(f"written: {write_result('accelerated', rows, size=224, rounds=rounds)}")


@torch.inference_mode()
def measure(name: str, batch: int, dtype_name: str, rounds: int) -> dict[str, Any]:
    """One row: times of all variants from one interleaved run."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.manual_seed(0)
    dtype = getattr(torch, dtype_name)
    model = timm.create_model(name).eval().to(dtype)
    images = torch.randn(batch, 3, 224, 224).to(dtype)
    pruned = PRUNED.get(name, 6)
    merged = merge_fastest(model, images, pruned, prepare=updp_rt.accelerate)
    fast = updp_rt.accelerate(model, images)
    fast_merged = updp_rt.accelerate(merged, images)
    start = time.perf_counter()
    updp_rt.accelerate(model, images)
    warm = time.perf_counter() - start
    for accelerated, source in ((fast, model), (fast_merged, merged)):
        error, allowed = logit_error(accelerated, source, images[:1])
        if not error <= 2 * allowed + torch.finfo(dtype).eps:
            raise SystemExit(
                f"{name}: logits are off by {error:.1e}, torch's own by {allowed:.1e}; no speed is reported"
            )
    compiled = torch.compile(model)
    calls = {"eager": model, "inductor": compiled, "accelerated": fast, "merged_accelerated": fast_merged}
    times = time_side_by_side(
        {key: partial(call, images) for key, call in calls.items()}, rounds=rounds, round_seconds=0.15
    )
    return {
        "model": name,
        "dtype": dtype_name,
        "batch": batch,
        "pruned": pruned,
        "warm_accelerate_s": warm,
        **{f"{key}_ms": seconds * 1e3 for key, seconds in times.items()},
        "over_inductor": times["inductor"] / times["accelerated"],
        "over_eager": times["eager"] / times["accelerated"],
        "merged_over_inductor": times["inductor"] / times["merged_accelerated"],
    }


if __name__ == "__main__":
    typer.run(main)
