"""The four stages over a run's folder: each reads what the one before wrote, and writes its own result."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from updp_rt._timing import time_side_by_side
from updp_rt.artifacts import save, versions
from updp_rt.artifacts.atomic import write_json, write_text
from updp_rt.blocks import (
    count_costs,
    count_depth,
    make_progressive,
    merge_model,
    merge_origins,
    progressive_blocks,
    set_lambda,
)
from updp_rt.pruning.figures import draw_blocks, draw_search, draw_training
from updp_rt.pruning.latency import LatencyTable, describe_device, measure_latency
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import SearchResult, search_blocks
from updp_rt.pruning.supernet import calibrate, sandwich_losses
from updp_rt.pruning.trainer import History, Recipe, fit, predict

LATENCY, SUPERNET, SEARCH, SUBNET, HISTORY = (
    "latency.json",
    "supernet.safetensors",
    "search.json",
    "subnet.safetensors",
    "history.csv",
)
CALIBRATION_IMAGES = 512
MERGED, SUMMARY = "merged", "summary.json"


def latency_table(run: Run) -> LatencyTable:
    """Per-block latencies, measured once a run."""
    model = run.model.to(run.device)
    run.on_main(LATENCY, lambda: run.store(LATENCY, measure_latency(model, run.example, run.progress)))
    return run.load(LATENCY, LatencyTable)


def train_supernet(run: Run) -> nn.Module:
    """Stage 1: one network whose subnets share their weights, from the given weights."""
    config = run.config
    bodies = latency_table(run).choose_bodies(run.names, config.body)
    supernet = make_progressive(run.model, bodies)
    if run.has(SUPERNET):
        return run.load_state(SUPERNET, supernet).to(run.device)
    calibrate(supernet, run.training_images(CALIBRATION_IMAGES))
    checkpoint = run.folder / "supernet.ckpt"
    if config.supernet_epochs > 0:
        fit(
            supernet,
            run.train_loader,
            sandwich_losses(config.seed, config.random_subnets, config.label_smoothing),
            _recipe(run, config.supernet_epochs, config.supernet_lr),
            stage="supernet",
            accelerator=run.accelerator,
            progress=run.progress,
            checkpoint=checkpoint,
        )
    set_lambda(supernet, 0.0)
    run.store_state(SUPERNET, supernet)
    _finish(run, checkpoint)
    return supernet


def search_subnet(run: Run) -> SearchResult:
    """Stage 2: the blocks to prune. Every process of the run works on the one study."""
    if run.has(SEARCH):
        return run.load(SEARCH, SearchResult)
    config, table = run.config, latency_table(run)
    bodies = table.choose_bodies(run.names, config.body)
    supernet = run.load_state(SUPERNET, make_progressive(run.model, bodies)).to(run.device)

    def judge(blocks: tuple[str, ...]) -> float:
        set_lambda(supernet, 1.0, blocks)
        recalibrate(supernet, run.recalibration_batches)
        return run.evaluate(supernet)

    candidates, chosen = search_blocks(
        run.names,
        judge,
        lambda blocks: table.estimate_ms({name: bodies[name] for name in blocks}),
        storage=run.folder / "search.journal",
        trials=config.trials,
        seed=config.seed,
        num_pruned=config.num_pruned,
        max_latency_ms=None if config.max_latency is None else config.max_latency * table.model_ms,
        progress=run.progress,
    )
    run.accelerator.wait_for_everyone()
    result = SearchResult(candidates=candidates, chosen=chosen, bodies={name: bodies[name] for name in chosen.blocks})
    run.store(SEARCH, result)
    run.accelerator.wait_for_everyone()
    return run.load(SEARCH, SearchResult)


def train_subnet(run: Run) -> nn.Module:
    """Stage 3: the chosen subnet, trained while λ goes from 0 to 1, from the given weights."""
    if run.has(SUBNET):
        return load_subnet(run)
    config = run.config
    subnet = make_progressive(run.model, run.load(SEARCH, SearchResult).bodies)
    calibrate(subnet, run.training_images(CALIBRATION_IMAGES))
    teacher = run.model.to(run.device).eval() if config.distill > 0 else None
    steps = config.epochs * -(-len(run.train_loader) // (config.accumulate * run.accelerator.num_processes))
    ramp = 0 if config.direct else max(1, round(config.ramp * steps))
    checkpoint = run.folder / "subnet.ckpt"
    history = fit(
        subnet,
        run.train_loader,
        progressive_losses(
            ramp, config.schedule, teacher=teacher, distill=config.distill, label_smoothing=config.label_smoothing
        ),
        # The rate falls once λ is 1: the hardest steps are the last of the ramp. The same for --direct, so that the two
        # differ in λ alone.
        _recipe(run, config.epochs, config.lr, hold=config.ramp),
        stage="subnet",
        accelerator=run.accelerator,
        progress=run.progress,
        checkpoint=checkpoint,
        after_epoch=lambda model: {"lambda": _lambda_of(model), "val_accuracy": run.evaluate(model)},
    )
    set_lambda(subnet, 1.0)
    if run.main:
        write_text(run.folder / HISTORY, _to_csv(history))
    run.store_state(SUBNET, subnet)
    _finish(run, checkpoint)
    return subnet.eval()


def load_subnet(run: Run) -> nn.Module:
    """The trained subnet at λ = 1, as stage 3 stored it."""
    subnet = run.load_state(SUBNET, make_progressive(run.model, run.load(SEARCH, SearchResult).bodies))
    set_lambda(subnet, 1.0)
    return subnet.to(run.device).eval()


def merge_subnet(run: Run) -> nn.Module:
    """Stage 4: the merged model, stored by `updp_rt.save`, with a summary of what it is against the baseline."""
    subnet = load_subnet(run)
    bodies = run.load(SEARCH, SearchResult).bodies
    table = latency_table(run)
    merged = merge_model(subnet, table.choose_forms(bodies))
    if run.main and not run.has(SUMMARY):
        summary = summarize(run, subnet, merged)
        accuracy = summary["merged"]["accuracy"]
        save(
            merged.cpu(),
            run.folder / MERGED,
            model_args=run.model_args,
            input_size=run.input_size,
            accuracy=accuracy,
        )
        draw_pictures(run, table, summary)
        write_json(run.folder / SUMMARY, summary)
    run.accelerator.wait_for_everyone()
    return merged.to(run.device)


def draw_pictures(run: Run, table: LatencyTable, summary: dict[str, Any]) -> None:
    """``search.png``, ``training.png`` and ``blocks.png`` in the run's folder."""
    draw_search(run.load(SEARCH, SearchResult), table, run.folder / "search.png")
    draw_training(run.folder / HISTORY, run.folder / "training.png", summary["baseline"]["val_accuracy"])
    draw_blocks(table, summary, run.folder / "blocks.png")


def summarize(run: Run, subnet: nn.Module, merged: nn.Module) -> dict[str, Any]:
    """Baseline, pruned subnet and merged model side by side: accuracy, depth, parameters, MACs, latency."""
    models = {"baseline": run.model.to(run.device).eval(), "subnet": subnet, "merged": merged}
    with torch.no_grad():
        times = time_side_by_side(
            {key: partial(model, run.example) for key, model in models.items()}, device=run.device
        )
    predicted, accuracies = {}, {}
    for key, model in models.items():
        batches = list(predict(model, run.test_loader, run.device))
        predicted[key] = torch.cat([classes for classes, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        accuracies[key] = int((predicted[key] == labels).sum()) / len(labels)
    rows: dict[str, Any] = {}
    for key, model in models.items():
        cost, _ = count_costs(model, run.input_size)
        rows[key] = {
            "accuracy": accuracies[key],
            "depth": count_depth(model),
            "params": cost.params,
            "macs": cost.macs,
            "latency_ms": times[key] * 1e3,
            "speedup": times["baseline"] / times[key],
        }
    rows["baseline"]["val_accuracy"] = run.evaluate(models["baseline"])
    blocks = {name: merge_origins(merged)[name]._asdict() for name in progressive_blocks(subnet)}
    return {
        **run.identity,
        "blocks": blocks,
        **rows,
        "predictions_that_differ": int((predicted["subnet"] != predicted["merged"]).sum()),
        "evaluated_on": "test" if run.has_test else "validation (no test split was given)",
        "images": len(predicted["merged"]),
        "batch_size": run.config.batch_size,
        "device": describe_device(run.device),
        "versions": versions(),
    }


def _recipe(run: Run, epochs: int, lr: float, hold: float = 0.0) -> Recipe:
    return Recipe(epochs, lr, run.config.weight_decay, run.config.warmup, hold, run.config.seed)


def _finish(run: Run, checkpoint: Path) -> None:
    run.accelerator.wait_for_everyone()
    if run.main:
        checkpoint.unlink(missing_ok=True)


def _lambda_of(model: nn.Module) -> float:
    return next(iter(progressive_blocks(model).values())).lam


def _to_csv(history: History) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
