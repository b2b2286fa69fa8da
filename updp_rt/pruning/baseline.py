"""Training a model on your own data, to start pruning from: `fit` with a folder from which it can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

import updp_rt
from updp_rt.artifacts import fingerprint, save
from updp_rt.artifacts.atomic import write_json, write_text
from updp_rt.artifacts.describe import describe_model
from updp_rt.artifacts.preprocessing import Augmentation
from updp_rt.artifacts.store import MANIFEST
from updp_rt.data import Loader, make_loader
from updp_rt.pruning.claim import RunError, differing, is_begun, locked, read_identity, with_defaults
from updp_rt.pruning.config import SAME_RESULTS, TrainConfig
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.run import HISTORY, Data, check_start
from updp_rt.pruning.stopping import stoppable
from updp_rt.pruning.trainer import evaluate, fit, label_losses, make_accelerator, recipe_of, to_csv

TRAIN, CHECKPOINT = "train.json", "train.ckpt"


def train_baseline(
    model: nn.Module,
    train: Data,
    val: Data,
    folder: str | Path,
    config: TrainConfig | None = None,
    *,
    test: Data | None = None,
    augmentation: Augmentation | None = None,
    notes: Sequence[str] = (),
    show_progress: bool = True,
) -> nn.Module:
    """Train a timm model in place and save it in `folder`, which `updp_rt.load` and ``updp-rt prune`` take.

    Resumable, and finished only once: the same call with the same folder goes on, or gives what was saved. SIGTERM ends
    the process with status 143, and what is done is kept.

    Args:
        train, val, test: data sets or ready loaders of ``(image [C, H, W], label)``. The accuracy that is saved is the
            last epoch's on `test`, or without one on `val`.
        augmentation: what is done to training images, recorded: a training goes on with the same.
        notes: lines on the data, for the log.

    Returns:
        The trained model in eval mode, on the CPU.

    Raises:
        RunError: the folder is in use, or holds something else.
        ArtifactError: the model cannot be saved. WriteError: a file cannot be written, as on a full disk.
        DivergedError: training came upon NaN or infinity.
        ValueError: weights that are not finite, or a batch larger than the training images.
    """
    folder, config = Path(folder), config or TrainConfig.model_validate({})
    accelerator = make_accelerator(config.mixed_precision)
    check_start(model, train, config.batch_size)
    main = accelerator.is_main_process
    progress = Progress(folder / "log.txt" if main else None, show=show_progress and main)
    train_loader = make_loader(train, config.batch_size, training=True, seed=config.seed, workers=config.workers)
    val_loader, test_loader = (
        make_loader(data, config.batch_size, training=False, workers=config.workers) for data in (val, test or val)
    )
    channels, height, width = next(iter(val_loader))[0].shape[1:]
    identity = {
        **describe_model(model).model_dump(mode="json", exclude_none=True),
        "input_size": [channels, height, width],
        "weights_sha256": fingerprint(model),
        **({"augmentation": augmentation.model_dump(mode="json")} if augmentation else {}),
        "config": config.model_dump(),
    }

    def judge(trained: nn.Module, loader: Loader) -> float:
        return evaluate(trained, loader, each_batch=progress.still_here, together=True)

    with ExitStack() as held:
        held.enter_context(stoppable(folder, progress.log))
        if main:
            is_begun(folder, TRAIN)  # before a lock is put there
            held.enter_context(locked(folder))
            _claim(folder, identity)
        accelerator.wait_for_everyone()
        if (folder / MANIFEST).exists():
            return updp_rt.load(folder)
        for line in notes:
            progress.log(line)
        history = fit(
            model,
            train_loader,
            label_losses(config.label_smoothing),
            recipe_of(config, config.epochs, config.lr),
            stage="train",
            accelerator=accelerator,
            progress=progress,
            checkpoint=folder / CHECKPOINT,
            after_epoch=lambda bare: {"val_accuracy": judge(bare, val_loader)},
        )
        accuracy = judge(model, test_loader)
        if main:
            write_text(folder / HISTORY, to_csv(history))
            size = (channels, height, width)
            save(model.cpu(), folder, input_size=size, accuracy=accuracy, augmentation=augmentation)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        accelerator.wait_for_everyone()
    return model.cpu().eval()


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make the folder this training's, unless an epoch of another is in it."""
    if not is_begun(folder, TRAIN) or not any((folder / name).exists() for name in (CHECKPOINT, MANIFEST)):
        write_json(folder / TRAIN, identity)
        return
    theirs = read_identity(folder / TRAIN, {"config"})
    found = differing(identity, {**theirs, "config": with_defaults(TrainConfig, theirs["config"])})
    changed = {key: words for key, words in found.items() if key not in SAME_RESULTS}
    if changed:
        words = "; ".join(list(changed.values())[:4])
        raise RunError(f"{folder}: holds another training ({words}); choose another folder or delete it")
