"""The four stages over a run's folder: each reads what the one before wrote, and writes its own result."""

from __future__ import annotations

from collections.abc import Sequence
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
from updp_rt.pruning.latency import LatencyTable, describe_device, measure_latency
from updp_rt.pruning.progressive import FEWEST, progressive_losses, ramp_steps
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import (
    HISTORY,
    JOURNAL,
    LAMBDA,
    LATENCY,
    MERGED,
    SEARCH,
    SUBNET,
    SUBNET_CHECKPOINT,
    SUMMARY,
    SUPERNET,
    SUPERNET_CHECKPOINT,
    Run,
    load_weights,
    read_result,
)
from updp_rt.pruning.search import SearchResult, check_max_latency, fastest_blocks, search_blocks
from updp_rt.pruning.supernet import calibrate, sandwich_losses
from updp_rt.pruning.trainer import DivergedError, Recipe, find_non_finite, fit, predict, to_csv

CALIBRATION_IMAGES = 512
_POINTS = 100  # of λ in an epoch that are kept: a picture needs no more


def latency_table(run: Run) -> LatencyTable:
    """Per-block latencies, measured once a run; raises `ValueError` where no subnet can be as fast as the run wants."""
    model = run.model.to(run.device)
    run.on_main(LATENCY, lambda: run.store(LATENCY, measure_latency(model, run.example, run.progress)))
    table, allowed = run.load(LATENCY, LatencyTable), run.config.max_latency
    if allowed is not None:
        bodies = table.choose_bodies(run.names, run.config.body)
        fastest = fastest_blocks(run.names, partial(_estimate, table, bodies))
        check_max_latency(table.model_ms, _estimate(table, bodies, fastest), allowed * table.model_ms)
    return table


def _estimate(table: LatencyTable, bodies: dict[str, str], blocks: tuple[str, ...]) -> float:
    return table.estimate_ms({name: bodies[name] for name in blocks})


def train_supernet(run: Run) -> None:
    """Stage 1: one network whose subnets share their weights, from the given weights."""
    config = run.config
    bodies = latency_table(run).choose_bodies(run.names, config.body)
    if run.has(SUPERNET):
        return
    supernet = make_progressive(run.model, bodies)
    calibrate(supernet, run.training_images(CALIBRATION_IMAGES))
    checkpoint = run.folder / SUPERNET_CHECKPOINT
    if config.supernet_epochs > 0:
        fit(
            supernet,
            run.train_loader,
            sandwich_losses(config.seed, config.random_subnets, config.label_smoothing),
            _recipe(run, config.supernet_epochs, config.supernet_lr, lr_setting="supernet_lr"),
            stage="supernet",
            accelerator=run.accelerator,
            progress=run.progress,
            checkpoint=checkpoint,
        )
    set_lambda(supernet, 0.0)
    run.store_state(SUPERNET, supernet)
    _finish(run, checkpoint)


def search_subnet(run: Run) -> None:
    """Stage 2: the blocks to prune. Every process of the run works on the one study."""
    if run.has(SEARCH):
        run.load(SEARCH, SearchResult)  # or says that it is damaged
        return
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
        partial(_estimate, table, bodies),
        storage=run.folder / JOURNAL,
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


def train_subnet(run: Run) -> None:
    """Stage 3: the chosen subnet, trained while λ goes from 0 to 1, from the given weights."""
    if run.has(SUBNET):
        return
    config = run.config
    subnet = make_progressive(run.model, run.load(SEARCH, SearchResult).bodies)
    calibrate(subnet, run.training_images(CALIBRATION_IMAGES))
    teacher = run.model.to(run.device).eval() if config.distill > 0 else None
    steps = config.epochs * -(-len(run.train_loader) // (config.accumulate * run.accelerator.num_processes))
    ramp = ramp_steps(config.ramp, steps)
    if not config.direct and ramp < FEWEST:
        run.progress.log(
            f"warning: λ goes from 0 to 1 in {ramp} of {steps} steps, which is a jump rather than a ramp: "
            "give more epochs, or a smaller batch_size"
        )
    trace: list[tuple[int, float]] = []

    def after_epoch(model: nn.Module) -> dict[str, Any]:
        seen, found = list(dict(trace).items()), {"lambda": _lambda_of(model), "val_accuracy": run.evaluate(model)}
        trace.clear()
        return {**found, "lambdas": _thinned(seen)}

    checkpoint = run.folder / SUBNET_CHECKPOINT
    history = fit(
        subnet,
        run.train_loader,
        progressive_losses(
            0 if config.direct else ramp,
            config.schedule,
            teacher=teacher,
            distill=config.distill,
            label_smoothing=config.label_smoothing,
            trace=trace,
        ),
        # The rate falls once λ is 1: the hardest steps are the last of the ramp. The same for --direct, so that the two
        # differ in λ alone.
        _recipe(run, config.epochs, config.lr, hold=ramp / steps),
        stage="subnet",
        accelerator=run.accelerator,
        progress=run.progress,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
    )
    set_lambda(subnet, 1.0)
    if run.main:
        lambdas = [point for record in history for point in record.pop("lambdas")]
        write_text(run.folder / LAMBDA, to_csv([{"step": step, "lambda": lam} for step, lam in lambdas]))
        write_text(run.folder / HISTORY, to_csv(history))
    run.store_state(SUBNET, subnet)
    _finish(run, checkpoint)


def load_subnet(model: nn.Module, folder: Path) -> nn.Module:
    """The subnet that stage 3 stored in a run's `folder`, at λ = 1, from `model`, which the run started from."""
    bodies = read_result(folder / SEARCH, SearchResult).bodies
    subnet = load_weights(folder / SUBNET, make_progressive(model, bodies))
    set_lambda(subnet, 1.0)
    return subnet.eval()


def merge_subnet(subnet: nn.Module, folder: Path, form: str = "auto") -> nn.Module:
    """The subnet of a run's `folder` merged: each block in its fastest form by the run's table, or all in one `form`.

    Raises:
        RunError: the table is not there. ValueError: no such form.
    """
    bodies = {name: block.body for name, block in progressive_blocks(subnet).items()}
    if form == "auto":
        return merge_model(subnet, read_result(folder / LATENCY, LatencyTable).choose_forms(bodies))
    return merge_model(subnet, dict.fromkeys(bodies, form))


def store_merged(run: Run) -> None:
    """Stage 4: the merged model, stored by `updp_rt.save`, with a summary of what it is against the baseline."""
    if run.main and not run.has(SUMMARY):
        subnet = load_subnet(run.model, run.folder).to(run.device)
        merged = merge_subnet(subnet, run.folder)
        odd = find_non_finite(merged)
        if odd is not None:
            raise DivergedError(
                f"merge: {odd} is not finite, products of weights are too large: train with a smaller lr"
            )
        summary = summarize(run, subnet, merged)
        save(
            merged.cpu(),
            run.folder / MERGED,
            model_args=run.model_args,
            input_size=run.input_size,
            accuracy=summary["merged"]["accuracy"],
            augmentation=run.augmentation,
        )
        write_json(run.folder / SUMMARY, summary)
    run.accelerator.wait_for_everyone()


def summarize(run: Run, subnet: nn.Module, merged: nn.Module) -> dict[str, Any]:
    """Baseline, pruned subnet and merged model side by side: accuracy, depth, parameters, MACs, latency."""
    models = {"baseline": run.model.to(run.device).eval(), "subnet": subnet, "merged": merged}
    with torch.no_grad():
        times = time_side_by_side(
            {key: partial(model, run.example) for key, model in models.items()}, device=run.device
        )
    predicted, accuracies = {}, {}
    for key, model in models.items():
        batches = []
        with run.progress.task(key, len(run.test_loader)) as advance:
            for batch in predict(model, run.test_loader, run.device):
                batches.append(batch)
                advance("")
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
        "predicted_ms": run.load(SEARCH, SearchResult).chosen.latency_ms,
        "predictions_that_differ": int((predicted["subnet"] != predicted["merged"]).sum()),
        "evaluated_on": "test" if run.has_test else "validation (no test split was given)",
        "images": len(predicted["merged"]),
        "batch_size": run.config.batch_size,
        "device": describe_device(run.device),
        "versions": versions(),
    }


def _recipe(run: Run, epochs: int, lr: float, hold: float = 0.0, lr_setting: str = "lr") -> Recipe:
    config = run.config
    return Recipe(epochs, lr, config.weight_decay, config.warmup, hold, config.seed, lr_setting)


def _finish(run: Run, checkpoint: Path) -> None:
    run.accelerator.wait_for_everyone()
    if run.main:
        checkpoint.unlink(missing_ok=True)


def _lambda_of(model: nn.Module) -> float:
    return next(iter(progressive_blocks(model).values())).lam


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `_POINTS` of them, the last among them."""
    stride = -(-len(points) // _POINTS)
    return [point for index, point in enumerate(points) if index % stride == 0 or index == len(points) - 1]
