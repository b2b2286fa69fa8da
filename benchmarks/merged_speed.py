"""Merged models against their baselines in plain eager torch, at 224, half the blocks pruned.

Run ``python -m benchmarks.merged_speed``. Baseline and merged model are timed in turn in one run; the ratio is of
medians. Weights are random: speed does not depend on them. Bodies and forms are those the latency table picks.
"""

from __future__ import annotations

from functools import partial

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import MODELS, merge_fastest, write_result
from updp_rt._timing import time_side_by_side
from updp_rt.blocks import check_model, merge_origins, model_input_size, prunable_blocks


@torch.inference_mode()
def main(batches: str = "1,8", rounds: int = 15) -> None:
    """Measure all four models at the given batch sizes."""
    table = Table(title="merged against baseline, eager, float32", title_justify="left")
    for column in ("model", "batch", "pruned", "forms", "baseline", "merged", "speedup"):
        table.add_column(column)
    rows = []
    for name in MODELS:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        # A speed is reported only of a merge that is right.
        verdict = check_model(model, input_size=(3, 96, 96) if "deit" not in name else None)
        if not verdict.passed:
            raise SystemExit(f"{name}: the merge is wrong ({verdict.merge_error_logits:.1e}); no speed is reported")
        names = prunable_blocks(model)
        for batch in map(int, batches.split(",")):
            example = torch.randn(batch, *model_input_size(model))
            pruned = len(names) // 2
            merged = merge_fastest(model, example, pruned)
            times = time_side_by_side(
                {"baseline": partial(model, example), "merged": partial(merged, example)}, rounds=rounds
            )
            forms = sorted({"/".join(origin) for origin in merge_origins(merged).values()})
            row = {
                "model": name,
                "batch": batch,
                "pruned": pruned,
                "blocks": len(names),
                "forms": forms,
                "baseline_ms": times["baseline"] * 1e3,
                "merged_ms": times["merged"] * 1e3,
                "speedup": times["baseline"] / times["merged"],
            }
            rows.append(row)
            table.add_row(
                name,
                str(batch),
                f"{pruned} of {len(names)}",
                ", ".join(forms),
                f"{row['baseline_ms']:.1f} ms",
                f"{row['merged_ms']:.1f} ms",
                f"{row['speedup']:.2f}×",
            )
    Console().print(table)
    path = write_result("merged_speed", rows, size=224, dtype="float32", mode="eager", rounds=rounds)
    Console().print(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
