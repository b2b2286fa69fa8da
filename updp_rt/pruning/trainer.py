"""One training loop for the baseline, the supernet and the subnet: seeded by epoch, checkpointed, resumable."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from updp_rt.data import Loader
from updp_rt.data.sharing import PartedImages, part_of
from updp_rt.pruning.checkpoints import Checkpointed, History, load_checkpoint, save_checkpoint
from updp_rt.pruning.config import PruneConfig, TrainConfig
from updp_rt.pruning.layout import channels_last
from updp_rt.pruning.midway import Passing, Place
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.ranks import added, average_gradients, average_statistics, processes, rank, start_alike, tracking
from updp_rt.pruning.recompute import recomputed_blocks
from updp_rt.pruning.stopping import deferred
from updp_rt.pruning.synced import synced_batch_norms

Losses = Callable[[nn.Module, Tensor, Tensor, int], Iterator[Tensor]]

_PATIENCE = timedelta(hours=12)  # of processes that wait while one alone measures or writes


class DivergedError(ValueError):
    """A loss or a weight is NaN or infinite."""


@dataclass(frozen=True)
class Recipe:
    """What `fit` needs to know of the optimisation: AdamW, with the learning rate that `rate` gives.

    Attributes:
        accumulate: batches a process adds up for a step of the optimizer.
        sync_batch_norm: see `synced_batch_norms`.
        grad_checkpointing: see `recomputed_blocks`.
        lr_setting: how users call `lr`.
    """

    epochs: int
    lr: float
    weight_decay: float = 0.05
    warmup: float = 0.05
    hold: float = 0.0
    seed: int = 0
    accumulate: int = 1
    sync_batch_norm: bool = False
    grad_checkpointing: bool = False
    lr_setting: str = "lr"


def recipe_of(config: PruneConfig | TrainConfig, epochs: int, lr: float, **further: Any) -> Recipe:
    """The recipe of some settings; `further` fields of it are not among them."""
    shared = ("weight_decay", "warmup", "seed", "accumulate", "sync_batch_norm", "grad_checkpointing")
    return Recipe(epochs, lr, **{name: getattr(config, name) for name in shared}, **further)


def make_accelerator(mixed_precision: str = "no") -> Accelerator:
    """Accelerate's view of the devices at hand, and of the processes that it or torchrun started.

    Raises:
        ValueError: they were started for a model that is split between them.
    """
    found = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find each other
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # `fit` counts batches itself
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if found.distributed_type != DistributedType.NO and not found.distributed_type.value.startswith("MULTI_"):
        raise ValueError(
            f"accelerate was told to train by {found.distributed_type.value}, which splits a model between processes: "
            "here each holds all of it; start them with torchrun, or accelerate launch --multi_gpu"
        )
    return found


def fit(
    model: nn.Module,
    loader: Loader,
    losses: Losses,
    recipe: Recipe,
    *,
    stage: str,
    accelerator: Accelerator,
    progress: Progress,
    checkpoint: Path,
    after_epoch: Callable[[nn.Module], dict[str, Any]] | None = None,
    trace: list[tuple[int, float]] | None = None,
) -> History:
    """Train `model` in place and return one record an epoch.

    Every epoch draws its random numbers from (seed, stage, epoch, process), so training that goes on from the last
    epoch's checkpoint gives, bit for bit on a CPU, what it would have given undisturbed. Several processes give, up to
    rounding, what one gives with the batches of all together, BatchNorm's statistics apart, unless those are synced.

    One process alone also leaves a checkpoint in the middle of an epoch, now and then and when SIGTERM stops it, and
    goes on from there to the same bits.

    Args:
        losses: ``(model, images, labels, step)`` to losses, means over the images, each back-propagated before the next
            is asked for; `step` counts the optimizer's steps.
        checkpoint: written after every epoch by the main process, read by all at the start; the caller deletes it once
            the result is stored.
        after_epoch: figures to add to the epoch's record, from the bare model in eval mode; all processes call it.
        trace: what `losses` append to and `after_epoch` clears; kept in the middle of an epoch.

    Raises:
        DivergedError: a loss or a weight is no longer finite. The last checkpoint stays as it was.
        ValueError: no batch to train on, or several processes are to go on from the middle of an epoch.
    """
    optimizer = create_optimizer_v2(model, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    reached = load_checkpoint(checkpoint, model, optimizer)
    alone = processes() == 1  # several would have to leave off at the same step
    if reached.place.batches and not alone:
        raise ValueError(f"{checkpoint}: one process stopped in the middle of an epoch; go on with one, or delete it")
    # Gradients are averaged once a step, not after each of its losses as DistributedDataParallel would.
    model = accelerator.prepare_model(model, evaluation_mode=True)
    optimizer, shared = accelerator.prepare_optimizer(optimizer), _share(loader, accelerator)
    bare = accelerator.unwrap_model(model)
    start_alike(bare)
    batches = len(shared)
    if batches == 0:
        raise ValueError("the training split gives no batch; use a smaller batch size or more images")
    steps_per_epoch = math.ceil(batches / recipe.accumulate)

    def diverged(what: str, step: int) -> DivergedError:
        return _diverged(what, recipe, stage, step, step // steps_per_epoch, checkpoint)

    total, size = recipe.epochs * steps_per_epoch, loader.batch_size or 1
    steps = _Steps(model, bare, optimizer, accelerator, losses, recipe, total, size, diverged)
    history, place, trace = reached.history, reached.place, [] if trace is None else trace
    trace[:] = place.trace

    def save(place: Place) -> None:
        if accelerator.is_main_process:
            save_checkpoint(checkpoint, bare, optimizer, Checkpointed(len(history), history, place))

    begun = reached.epoch * batches + place.batches
    with progress.task(stage, recipe.epochs * batches, begun) as advance, as_trained(bare, recipe):
        for epoch in range(reached.epoch, recipe.epochs):
            seed_everything(recipe.seed, stage, epoch, rank())
            if hasattr(shared, "set_epoch"):
                shared.set_epoch(epoch)
            model.train()
            passing, place = Passing(shared, place, trace, save if alone else None), Place()
            with passing.kept():
                with deferred(alone) as asked:
                    steps.take(passing, epoch * steps_per_epoch, asked, advance)
                average_statistics(tracking(bare))
                loss, seen = added([passing.loss, passing.seen], accelerator.device)
                record: dict[str, Any] = {
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * steps_per_epoch,
                    "loss": loss / seen,
                }
                if after_epoch is not None:
                    record |= after_epoch(bare.eval())
                with deferred():
                    history.append(record)
                    shown = (f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, int | float))
                    progress.log(f"{stage}: {', '.join(shown)}")
                    save(Place())
                    passing.finished = True
    _let_go(accelerator, bare)
    return history


@dataclass(frozen=True)
class _Steps:
    """The optimizer's steps: `total` in all, along the gradients of `losses`; `size` images are a whole batch."""

    model: nn.Module
    bare: nn.Module
    optimizer: Any
    accelerator: Accelerator
    losses: Losses
    recipe: Recipe
    total: int
    size: int
    diverged: Callable[[str, int], DivergedError]

    def take(self, passing: Passing, first: int, asked: Callable[[], bool], advance: Callable[[str], None]) -> None:
        """Those of an epoch's batches, of which the first is the step `first`, until it is `asked` to leave off."""
        recipe, gathered = self.recipe, 0.0  # whole batches of a step
        parameters = [parameter for parameter in self.bare.parameters() if parameter.requires_grad]
        for batch, (images, labels) in passing:
            step = first + batch // recipe.accumulate
            share = rate(step, self.total, recipe.warmup, recipe.hold)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.lr * group.get("lr_scale", 1.0) * share
            share = len(images) / self.size  # a whole batch's loss counts once
            value = _add_up(self.accelerator, self.losses(self.model, images, labels, step), share)
            if not math.isfinite(value):
                what = f"the loss is {value}" if is_finite([images]) else "the images hold NaN or infinity"
                raise self.diverged(what, step)
            passing.count(value, share)
            gathered += share
            advance(f"loss {passing.loss / passing.seen:.3f}")
            if (batch + 1) % recipe.accumulate and not passing.at_end:
                continue
            average_gradients(parameters, gathered)
            gathered = 0.0
            self.optimizer.step()
            self.optimizer.zero_grad()
            if odd := find_non_finite(self.bare):
                raise self.diverged(f"{odd} is not finite", step)
            if passing.rest(asked()):
                return


def _let_go(accelerator: Accelerator, model: nn.Module) -> None:
    """Leave `model` without Accelerate's autocast around its own forward."""
    for name in ("forward", "_original_forward"):
        vars(model).pop(name, None)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


@contextmanager
def as_trained(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Inside, `model` runs as the recipe wants it trained."""
    with ExitStack() as held:
        held.enter_context(channels_last(model))
        if recipe.sync_batch_norm:
            held.enter_context(synced_batch_norms(model))
        if recipe.grad_checkpointing:
            held.enter_context(recomputed_blocks(model))
        yield


def _add_up(accelerator: Accelerator, losses: Iterator[Tensor], share: float) -> float:
    """Add gradients of a batch's losses, each counted `share` times, to those that are there; returns their sum.

    It ends at a loss that is not finite, and returns that.
    """
    total = 0.0
    for loss in losses:
        accelerator.backward(loss * share)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        total += value * share
    return total


def find_non_finite(model: nn.Module) -> str | None:
    """Name of a weight or statistic of `model` that holds NaN or infinity; None: there is none."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if is_finite(state.values()):
        return None
    return next(name for name, value in state.items() if not is_finite([value]))


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number in floating-point `tensors` is NaN or infinite."""
    return bool(get_total_norm([t.detach() for t in tensors if t.numel()], math.inf).isfinite())


def _diverged(what: str, recipe: Recipe, stage: str, step: int, epoch: int, checkpoint: Path) -> DivergedError:
    remedy = (
        "mend the data"
        if what.startswith("the images")
        else f"try a smaller learning rate ({recipe.lr_setting} is {recipe.lr:g}) or a longer warmup"
    )
    reached = f"epoch {epoch}" if epoch else "the start of epoch 1"
    kept = f"{reached} is kept in {checkpoint}" if checkpoint.exists() else "no epoch was finished before"
    return DivergedError(f"{stage}: {what} at step {step} (epoch {epoch + 1} of {recipe.epochs}): {remedy}; {kept}")


def label_losses(label_smoothing: float = 0.0) -> Losses:
    """Plain training: the cross entropy of the labels."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        yield F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)

    return losses


def to_csv(rows: History) -> str:
    """Records as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def rate(step: int, total: int, warmup: float, hold: float = 0.0) -> float:
    """Learning rate of `step` as a share of the full one: linear warm-up, full until `hold`, half a cosine to zero.

    `warmup` and `hold` are shares of the `total` steps.
    """
    if step < warmup * total:
        return (step + 1) / (warmup * total + 1)
    start = max(warmup, hold) * total
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, total - start)))


def seed_everything(seed: int, stage: str, epoch: int, rank: int = 0) -> None:
    """Seed python, numpy and torch from all of these together."""
    own = f"/{rank}" if rank else ""
    mixed = random.Random(f"{seed}/{stage}/{epoch}{own}").getrandbits(31)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    device: torch.device | None = None,
    each_batch: Callable[[], None] = lambda: None,
    *,
    together: bool = False,
) -> float:
    """Share of images whose top-1 class is the label, in eval mode; `each_batch` is called after each.

    With `together` all processes of a training call this at once with the same weights: each takes its part of the
    images, and all return the share over all.
    """
    correct, total = 0, 0
    device = device or next(model.parameters()).device
    part = part_of(loader, rank(), processes()) if together else loader
    for predicted, labels in predict(model, part, device):
        each_batch()
        correct += int((predicted == labels).sum())
        total += labels.numel()
    found, images = added([correct, total], device) if together else (correct, total)
    if images == 0:
        raise ValueError("the evaluation split holds no images")
    return found / images


@torch.no_grad()
def outputs(model: nn.Module, loader: Loader, device: torch.device | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels, batch by batch, in eval mode."""
    device = device or next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for images, labels in loader:
            yield model(images.to(device)).cpu(), labels.cpu()
    finally:
        model.train(training)


def predict(model: nn.Module, loader: Loader, device: torch.device | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Top-1 classes and labels, batch by batch, in eval mode."""
    for logits, labels in outputs(model, loader, device):
        yield logits.argmax(-1), labels


def _share(loader: Loader, accelerator: Accelerator) -> Any:
    """The loader of this process's share, which puts batches on its device."""
    if not isinstance(loader.dataset, PartedImages):
        return accelerator.prepare_data_loader(loader)
    part = part_of(loader, rank(), processes())
    return prepare_data_loader(
        part, accelerator.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )
