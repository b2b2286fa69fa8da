"""What a run will do and what that takes, before it is begun: counted from its settings, and a step of it tried."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from updp_rt.blocks import count_costs, make_progressive, pruned_bodies, skippable_blocks
from updp_rt.blocks.parts import AFFINE, SKIP
from updp_rt.data.sharing import count_batches
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.memory import SavedForBackward, largest_block, state_bytes
from updp_rt.pruning.ranks import processes
from updp_rt.pruning.run import Run
from updp_rt.pruning.supernet import sandwich_losses
from updp_rt.pruning.trainer import Losses, as_trained, label_losses, recipe_of

EXA = 1e18
_HALF_WAY = 2, 1  # steps of a ramp, and the one of them at which both sides of a block run


@dataclass(frozen=True)
class StagePlan:
    """A stage: how often it goes over its images, in how many steps of the optimizer, and what it computes."""

    rounds: int
    steps: int
    exaflops: float


@dataclass(frozen=True)
class Trial:
    """One step of the optimizer that was tried here, without a change to any weight.

    Attributes:
        seconds: it took, all losses of its batches forward and back.
        memory: bytes that one process holds at its fullest: weights, gradients, moments, and what backward needs.
    """

    seconds: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """A run that was not begun.

    Attributes:
        images: to train on, and to choose by.
        batch: images a step of the optimizer, of all processes.
        stages: what is to do, by stage.
        tried: a step of the stages that train, by stage.
        seconds: what training takes in all at the pace of those steps; data that loads more slowly is not counted.
    """

    images: tuple[int, int]
    processes: int
    batch: int
    macs: int
    stages: dict[str, StagePlan]
    tried: dict[str, Trial]
    seconds: float


def estimate_flops(config: PruneConfig, trials: int, passes: int, macs: int, train: int, val: int) -> dict[str, float]:
    """Floating-point operations of each stage, a multiplication and an addition being two.

    A pass forward and back counts as three forward, and a subnet as much as the model it is pruned from, while λ rises
    and after: a little less at the end than is counted.

    Args:
        trials: subnets that the search judges.
        passes: of a step of the supernet, forward and back.
        macs: multiply-accumulates of the model for one image.
        train, val: images in each split.
    """
    supernet = config.supernet_epochs * train * 3 * passes
    search = trials * (config.recalibration_batches * config.batch_size + val)
    subnet = config.epochs * (train * (3 + (config.distill > 0)) + val)
    return {"supernet": 2.0 * macs * supernet, "search": 2.0 * macs * search, "train": 2.0 * macs * subnet}


def make_plan(run: Run) -> Plan:
    """Plan `run`, and try a step of it; nothing is written. All processes of the run call it together.

    Raises:
        ValueError: the training split gives no batch.
    """
    config, batches = run.config, count_batches(run.train_loader, processes())
    if batches == 0:
        raise ValueError("the training split gives no batch; use a smaller batch size or more images")
    train = len(run.train_loader) * config.batch_size
    cost, _ = count_costs(run.model, run.input_size)
    data = run.val_loader.dataset
    val = len(data) if isinstance(data, Sized) else sum(len(labels) for _, labels in run.val_loader)
    flops = estimate_flops(config, run.trials, run.method.passes(config), cost.macs, train, val)
    rounds = {"supernet": config.supernet_epochs, "search": run.trials, "train": config.epochs}
    stages = {
        name: StagePlan(rounds[name], 0 if name == "search" else run.steps(rounds[name]), flops[name] / EXA)
        for name in rounds
    }
    tried = {name: try_step(run, *made) for name, made in _trained(run).items()}
    if run.config.distill > 0:  # the baseline's weights are held, too
        held = sum(parameter.nbytes for parameter in run.model.parameters())
        tried["train"] = replace(tried["train"], memory=tried["train"].memory + held)
    seconds = sum(tried[name].seconds * stages[name].steps for name in tried)
    whole = config.batch_size * config.accumulate * processes()
    return Plan((train, val), processes(), whole, cost.macs, stages, tried, seconds)


def _trained(run: Run) -> dict[str, tuple[nn.Module, Losses]]:
    """What stages train, and how: as UPDP does; of rivals, whose choosers differ, the model itself stands for both."""
    config = run.config
    plain = run.model, label_losses(config.label_smoothing)
    if run.method.name != "updp":
        return {**({"supernet": plain} if config.supernet_epochs and run.method.passes(config) else {}), "train": plain}
    known = (*pruned_bodies(run.model), AFFINE)
    bodies = dict.fromkeys(run.names, config.body if config.body in known else known[0])
    if config.body == SKIP:
        bodies |= dict.fromkeys(skippable_blocks(run.model), SKIP)
    supernet = make_progressive(run.model, bodies)
    subnet = make_progressive(run.model, {name: bodies[name] for name in run.names[: config.num_pruned]})
    steps, at = _HALF_WAY
    ramp = run.method.losses(run, steps, [])
    found: dict[str, tuple[nn.Module, Losses]] = {}
    if config.supernet_epochs:
        found["supernet"] = supernet, sandwich_losses(config.seed, config.random_subnets, config.label_smoothing)
    found["train"] = subnet, lambda model, images, labels, step: ramp(model, images, labels, at)
    return found


def try_step(run: Run, model: nn.Module, losses: Losses) -> Trial:
    """A step on the first batch, but for the optimizer's own part; on a GPU the second that is tried."""
    config = run.config
    model = model.to(run.device).train()
    images, labels = (part.to(run.device) for part in next(iter(run.train_loader)))
    most, seconds = 0, 0.0
    with SavedForBackward(model) as saved, as_trained(model, recipe_of(config, 1, config.lr)):
        for _ in range(1 if run.device.type == "cpu" else 2):
            start = time.perf_counter()
            each = losses(model, images, labels, 0)
            while (loss := _next(run, each)) is not None:
                most = max(most, saved.bytes)
                loss.backward()
                saved.forget()
            if run.device.type == "cuda":
                torch.cuda.synchronize(run.device)
            seconds = config.accumulate * (time.perf_counter() - start)
    if config.grad_checkpointing:
        with run.accelerator.autocast():
            most += largest_block(model, images[:2]) * len(images) // 2
    model.zero_grad(set_to_none=True)
    return Trial(seconds, most + state_bytes(model))


def _next(run: Run, losses: Iterator[Tensor]) -> Tensor | None:
    with run.accelerator.autocast():
        return next(losses, None)
