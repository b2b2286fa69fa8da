"""One training loop for the baseline, the supernet and the subnet: seeded by epoch, checkpointed, resumable."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.data import Loader
from updp_rt.pruning.progress import Progress

Losses = Callable[[nn.Module, Tensor, Tensor, int], Iterator[Tensor]]
History = list[dict[str, Any]]


class DivergedError(ValueError):
    """A loss or a weight is NaN or infinite."""


@dataclass(frozen=True)
class Recipe:
    """What `fit` needs to know of the optimisation: AdamW, with the learning rate that `rate` gives.

    `lr_setting` is how users call `lr`.
    """

    epochs: int
    lr: float
    weight_decay: float = 0.05
    warmup: float = 0.05
    hold: float = 0.0
    seed: int = 0
    lr_setting: str = "lr"


@dataclass
class Checkpointed:
    """What a training has reached, as read from its checkpoint."""

    epoch: int = 0
    history: History = field(default_factory=list)


def make_accelerator(mixed_precision: str = "no", accumulate: int = 1) -> Accelerator:
    """Accelerate's view of the devices at hand; blocks that a subnet skips have no gradient, hence the handler."""
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find each other
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


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
) -> History:
    """Train `model` in place and return one record an epoch.

    Every epoch draws its random numbers from (seed, stage, epoch), so training that goes on from the last epoch's
    checkpoint gives, bit for bit on a CPU, what it would have given undisturbed.

    Args:
        losses: ``(model, images, labels, step)`` to losses, each back-propagated before the next is asked for; `step`
            counts the optimizer's steps.
        checkpoint: written after every epoch, read at the start; the caller deletes it once the result is stored.
        after_epoch: figures to add to the epoch's record, from the bare model in eval mode.

    Raises:
        DivergedError: a loss or a weight is no longer finite. The checkpoint of the last whole epoch stays as it was.
        ValueError: no batch to train on.
    """
    optimizer = create_optimizer_v2(model, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    reached = _load_checkpoint(checkpoint, model, optimizer)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    bare = accelerator.unwrap_model(model)
    batches = len(loader)
    if batches == 0:
        raise ValueError("the training split gives no batch; use a smaller batch size or more images")
    steps_per_epoch = math.ceil(batches / accelerator.gradient_accumulation_steps)
    total = recipe.epochs * steps_per_epoch
    history = reached.history
    with progress.task(stage, recipe.epochs * batches, reached.epoch * batches) as advance:
        for epoch in range(reached.epoch, recipe.epochs):
            seed_everything(recipe.seed, stage, epoch)
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            model.train()
            seen, running = 0, 0.0
            for batch, (images, labels) in enumerate(loader):
                step = epoch * steps_per_epoch + batch // accelerator.gradient_accumulation_steps
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * group.get("lr_scale", 1.0) * rate(step, total, recipe.warmup, recipe.hold)
                with accelerator.accumulate(model):
                    for loss in losses(model, images, labels, step):
                        accelerator.backward(loss)
                        value = float(loss.detach())
                        if not math.isfinite(value):
                            what = f"the loss is {value}" if is_finite([images]) else "the images hold NaN or infinity"
                            raise _diverged(what, recipe, stage, step, epoch, checkpoint)
                        running += value
                    optimizer.step()
                    optimizer.zero_grad()
                    if accelerator.sync_gradients and (odd := find_non_finite(bare)):
                        raise _diverged(f"{odd} is not finite", recipe, stage, step, epoch, checkpoint)
                seen += 1
                advance(f"loss {running / seen:.3f}")
            record: dict[str, Any] = {"epoch": epoch + 1, "step": (epoch + 1) * steps_per_epoch, "loss": running / seen}
            if after_epoch is not None:
                record |= after_epoch(bare.eval())
            history.append(record)
            shown = (f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, int | float))
            progress.log(f"{stage}: {', '.join(shown)}")
            if accelerator.is_main_process:
                _save_checkpoint(checkpoint, bare, optimizer, epoch + 1, history)
    for name in ("forward", "_original_forward"):  # Accelerate's autocast around the model's own forward
        vars(bare).pop(name, None)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return history


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
    kept = f"epoch {epoch} is kept in {checkpoint}" if checkpoint.exists() else "no epoch was finished before"
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


def seed_everything(seed: int, stage: str, epoch: int) -> None:
    """Seed python, numpy and torch from the three together."""
    mixed = random.Random(f"{seed}/{stage}/{epoch}").getrandbits(31)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    device: torch.device | None = None,
    each_batch: Callable[[], None] = lambda: None,
) -> float:
    """Share of images whose top-1 class is the label, in eval mode; `each_batch` is called after each."""
    correct, total = 0, 0
    for predicted, labels in predict(model, loader, device):
        each_batch()
        correct += int((predicted == labels).sum())
        total += labels.numel()
    if total == 0:
        raise ValueError("the evaluation split holds no images")
    return correct / total


@torch.no_grad()
def predict(model: nn.Module, loader: Loader, device: torch.device | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Top-1 classes and labels, batch by batch, in eval mode."""
    device = device or next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for images, labels in loader:
            yield model(images.to(device)).argmax(-1).cpu(), labels.cpu()
    finally:
        model.train(training)


def _save_checkpoint(path: Path, model: nn.Module, optimizer: Any, epoch: int, history: History) -> None:
    with atomic_path(path) as temporary:
        state = {"epoch": epoch, "history": history, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, temporary)


def _load_checkpoint(path: Path, model: nn.Module, optimizer: Any) -> Checkpointed:
    if not path.exists():
        return Checkpointed()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Checkpointed(state["epoch"], state["history"])
