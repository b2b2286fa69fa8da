"""The four stages over a run's folder: each reads what the one before wrote, and writes its own result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from updp_rt._timing import time_side_by_side
from updp_rt.artifacts import save, versions
from updp_rt.artifacts.atomic import write_json, write_text
from updp_rt.artifacts.manifest import Description
from updp_rt.blocks import count_costs, count_depth, progressive_blocks, set_lambda
from updp_rt.blocks.parts import WHOLE
from updp_rt.pruning.config import ANY
from updp_rt.pruning.genes import fastest_genes, genes_of
from updp_rt.pruning.goals import check_latency
from updp_rt.pruning.kept import kept_table
from updp_rt.pruning.latency import PLAIN, LatencyTable, describe_device, measure_latency
from updp_rt.pruning.method import Method, estimate_ms, find_method
from updp_rt.pruning.progressive import FEWEST, ramp_steps
from updp_rt.pruning.run import (
    HISTORY,
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
    read_run,
)
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.trainer import DivergedError, Recipe, find_non_finite, fit, predict, recipe_of, to_csv

_POINTS = 100  # of λ in an epoch that are kept: a picture needs no more


def latency_table(run: Run) -> LatencyTable:
    """Per-block latencies, measured once a run; raises `ValueError` where no subnet can be as fast as the run wants."""
    run.model.to(run.device)
    run.on_main(LATENCY, lambda: run.store(LATENCY, _measured(run)))
    table, config = run.load(LATENCY, LatencyTable), run.config
    if config.num_pruned is None:
        offered, segments = table.offer_bodies(table.blocks, config.body), table.offer_segments(config.body)
        latency_ms = partial(estimate_ms, table, offered, segments)
        fastest = fastest_genes(genes_of(offered, segments), latency_ms)
        allowed, speedup = config.allowed_ms(table.model_ms), config.target_speedup is not None
        check_latency(table.model_ms, latency_ms(fastest), allowed, speedup=speedup)
    return table


def _measured(run: Run) -> LatencyTable:
    """The table as it is measured now, or as one was of the same model on the same device and kernels."""
    kernels = run.kernels

    def measure() -> LatencyTable:
        found = measure_latency(run.model, run.example, run.progress, kernels.prepare, joined=run.config.body == ANY)
        return found.model_copy(update={"kernels": kernels.name})

    if kernels.version is None:
        return measure()
    known = {key: run.identity[key] for key in Description.model_fields if key in run.identity}
    if run.config.body == ANY:
        known["joined"] = True
    known["skipped"], known["again"], known["affine"] = (
        True,
        True,
        True,
    )  # what tables of before had not: see `measure_latency`
    what = {**known, "batch_size": run.config.batch_size, "kernels": [kernels.name, kernels.version(run.device)]}
    return kept_table(what, measure, run.progress)


def train_supernet(run: Run) -> None:
    """Stage 1: what blocks are chosen by, trained from the given weights; nothing for methods that need no training."""
    config, method, table = run.config, run.method, latency_table(run)
    if run.is_done(SUPERNET):
        return
    chooser = _chooser(run, table)
    if chooser is None:
        return
    method.prepare_chooser(run, chooser)
    checkpoint = run.folder / SUPERNET_CHECKPOINT
    if config.supernet_epochs > 0:
        fit(
            chooser,
            run.train_loader,
            method.chooser_losses(run, table),
            _recipe(run, config.supernet_epochs, config.supernet_lr, lr_setting="supernet_lr"),
            stage="supernet",
            accelerator=run.accelerator,
            progress=run.progress,
            checkpoint=checkpoint,
        )
    else:
        few = f"{run.steps(config.epochs)} steps of the subnet"
        run.progress.log(f"supernet: fitted to the baseline and not trained ({few}); supernet_epochs trains it")
    set_lambda(chooser, 0.0)
    run.store_state(SUPERNET, chooser)
    _finish(run, checkpoint)


def _chooser(run: Run, table: LatencyTable) -> nn.Module | None:
    """What blocks are chosen by, before it is trained, with all pruned bodies that the search may choose from."""
    chooser = run.method.chooser(run.model, table.choose_bodies(table.blocks, run.config.body))
    if chooser is not None and run.config.body == ANY:
        offered = table.offer_bodies(table.blocks, ANY)
        for name, block in progressive_blocks(chooser).items():
            if len(offered[name]) > 1:
                block.offer(offered[name])
    return chooser


def search_subnet(run: Run) -> None:
    """Stage 2: the blocks to prune. Every process of the run takes part."""
    if run.is_done(SEARCH):
        run.load(SEARCH, SearchResult)  # or says that it is damaged
        return
    table = latency_table(run)
    chooser = _chooser(run, table)
    if chooser is not None:
        chooser = run.load_state(SUPERNET, chooser).to(run.device)
    result = run.method.choose(run, table, chooser)
    run.accelerator.wait_for_everyone()
    run.store(SEARCH, result)
    run.accelerator.wait_for_everyone()


def train_subnet(run: Run) -> None:
    """Stage 3: the chosen subnet, trained while λ goes from 0 to 1, from the given weights."""
    if run.is_done(SUBNET):
        return
    config, method = run.config, run.method
    subnet = method.subnet(run.model, run.load(SEARCH, SearchResult).bodies)
    method.prepare(run, subnet)
    if not method.trains:
        run.store_state(SUBNET, subnet)
        run.accelerator.wait_for_everyone()
        return
    steps = run.steps(config.epochs)
    ramp = ramp_steps(config.ramp, steps) if method.fades else 0
    fading = method.fades and not config.direct
    if fading and ramp < FEWEST:
        run.progress.log(
            f"warning: λ goes from 0 to 1 in {ramp} of {steps} steps, which is a jump rather than a ramp: "
            "give more epochs, or a smaller batch_size"
        )
    trace: list[tuple[int, float]] = []

    def after_epoch(model: nn.Module) -> dict[str, Any]:
        seen = list(dict(trace).items())
        found = {"lambda": seen[-1][1], "val_accuracy": run.evaluate(model, together=True)}
        trace.clear()
        return {**found, "lambdas": _thinned(seen)}

    checkpoint = run.folder / SUBNET_CHECKPOINT
    history = fit(
        subnet,
        run.train_loader,
        method.losses(run, ramp if fading else 0, trace),
        # The rate falls once λ is 1: the hardest steps are the last of the ramp. The same for --direct, so that the two
        # differ in λ alone.
        _recipe(run, config.epochs, config.lr, hold=ramp / steps),
        stage="subnet",
        accelerator=run.accelerator,
        progress=run.progress,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
        trace=trace,
    )
    if run.main:
        lambdas = [point for record in history for point in record.pop("lambdas")]
        write_text(run.folder / LAMBDA, to_csv([{"step": step, "lambda": lam} for step, lam in lambdas]))
        write_text(run.folder / HISTORY, to_csv(history))
    run.store_state(SUBNET, subnet)
    _finish(run, checkpoint)


def load_subnet(model: nn.Module, folder: Path) -> nn.Module:
    """The subnet that stage 3 stored in a run's `folder`, at λ = 1, from `model`, which the run started from."""
    bodies = read_result(folder / SEARCH, SearchResult).bodies
    method = method_of(folder)
    return method.finish(load_weights(folder / SUBNET, method.subnet(model, bodies))).eval()


def merge_subnet(subnet: nn.Module, folder: Path, form: str = "auto") -> nn.Module:
    """The subnet of a run's `folder` merged: each block in its fastest form by the run's table, or all in one `form`.

    Blocks that are left out, or an affine map, have but one.

    Raises:
        RunError: the table is not there. ValueError: no such form.
    """

    def choose(bodies: dict[str, str]) -> dict[str, str]:
        if form == "auto":
            return read_result(folder / LATENCY, LatencyTable).choose_forms(bodies)
        return {name: WHOLE.get(body, form) for name, body in bodies.items()}

    return method_of(folder).merge(subnet, choose)


def method_of(folder: Path) -> Method:
    """The method of the run in a folder; those that were begun before there were several are UPDP's."""
    return find_method(read_run(folder)["config"].get("method", "updp"))


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
    search = run.load(SEARCH, SearchResult)
    blocks = {name: origin._asdict() for name, origin in run.method.origins(merged, search.bodies).items()}
    return {
        **run.identity,
        "blocks": blocks,
        **rows,
        "predicted_ms": search.chosen.latency_ms,
        "prediction": predicted_and_measured(run, merged, times),
        "predictions_that_differ": int((predicted["subnet"] != predicted["merged"]).sum()),
        "evaluated_on": "test" if run.has_test else "validation (no test split was given)",
        "images": len(predicted["merged"]),
        "batch_size": run.config.batch_size,
        "device": describe_device(run.device),
        "versions": versions(),
    }


def predicted_and_measured(run: Run, merged: nn.Module, plain: Mapping[str, float]) -> dict[str, Any] | None:
    """How far the search's prediction of the merged model's speed-up is from what is measured now on the same kernels.

    Args:
        plain: seconds of baseline and merged model in plain torch, measured in turn.

    Returns:
        None: the table is of other kernels than this process has, or the method predicts nothing.
    """
    if not run.method.predicts:
        return None
    table, chosen = run.load(LATENCY, LatencyTable), run.load(SEARCH, SearchResult).chosen
    times = plain
    if table.kernels != PLAIN.name:
        if run.kernels.name != table.kernels:
            return None
        models = {"baseline": run.model, "merged": merged}
        calls = {key: partial(run.kernels.prepare(model, run.example), run.example) for key, model in models.items()}
        with torch.no_grad():
            times = time_side_by_side(calls, device=run.device)
    predicted, measured = table.model_ms / chosen.latency_ms, times["baseline"] / times["merged"]
    return {
        "kernels": table.kernels,
        "predicted_speedup": predicted,
        "measured_speedup": measured,
        "off": predicted / measured - 1,  # of the latency: above 0 where it takes longer than predicted
    }


def _recipe(run: Run, epochs: int, lr: float, hold: float = 0.0, lr_setting: str = "lr") -> Recipe:
    return recipe_of(run.config, epochs, lr, hold=hold, lr_setting=lr_setting)


def _finish(run: Run, checkpoint: Path) -> None:
    run.accelerator.wait_for_everyone()
    if run.main:
        checkpoint.unlink(missing_ok=True)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `_POINTS` of them, the last among them."""
    stride = -(-len(points) // _POINTS)
    return [point for index, point in enumerate(points) if index % stride == 0 or index == len(points) - 1]
