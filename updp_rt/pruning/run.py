"""A pruning run on disk: its model, its data, its settings, and the folder that holds what each stage found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from updp_rt.artifacts.atomic import atomic_path, remove_leftovers, write_json, write_text
from updp_rt.artifacts.describe import cpu_state, describe_model, fingerprint
from updp_rt.blocks import prunable_blocks, pruned_bodies
from updp_rt.data import Loader, first_images, make_loader
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.search import check_num_pruned
from updp_rt.pruning.trainer import evaluate, make_accelerator, seed_everything

Data = Dataset[Any] | Loader
ModelT = TypeVar("ModelT", bound=BaseModel)


class RunError(ValueError):
    """A run folder that holds another run, lacks an earlier stage, or is damaged."""


class Run:
    """Everything the four stages share. `model` is left untouched; stages work on copies.

    Args:
        model: a timm model with the weights to start from.
        train, val, test: data sets or ready loaders of ``(image, label)``; without a test split the last figures are
            taken on `val`, and the summary says so.
        model_args: arguments of ``timm.create_model`` beyond those that can be read off the model.
        folder: where results go. A folder of the same run is gone on with; one of another run is refused.

    Raises:
        RunError: `folder` holds another run. `ArtifactError`, `UnsupportedModelError`: the model cannot be pruned or
            could not be saved afterwards. ValueError: more blocks to prune than there are, or an unknown body.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Data,
        val: Data,
        folder: str | Path,
        config: PruneConfig,
        *,
        test: Data | None = None,
        model_args: dict[str, Any] | None = None,
        show_progress: bool = True,
    ) -> None:
        self.model, self.folder, self.config = copy.deepcopy(model), Path(folder), config
        self.names = prunable_blocks(model)
        check_num_pruned(self.names, config.num_pruned)
        if config.body not in ("auto", *pruned_bodies(model)):
            raise ValueError(f"no pruned body {config.body!r}; choose auto or one of {', '.join(pruned_bodies(model))}")
        self.accelerator = make_accelerator(config.mixed_precision, config.accumulate)
        self.main = self.accelerator.is_main_process
        self.progress = Progress(self.folder / "log.txt" if self.main else None, show=show_progress and self.main)
        size, seed, workers = config.batch_size, config.seed, config.workers
        self.train_loader = make_loader(train, size, training=True, seed=seed, workers=workers)
        self.val_loader = make_loader(val, size, training=False, workers=workers)
        self.test_loader = self.val_loader if test is None else make_loader(test, size, training=False, workers=workers)
        self.has_test = test is not None
        self.model_args = model_args
        # Of the data, not of the model's timm configuration: a CNN takes any size, and costs are of the size it sees.
        channels, height, width = next(iter(self.val_loader))[0].shape[1:]
        self.input_size = (channels, height, width)
        self.identity = {
            **describe_model(model, model_args).model_dump(mode="json", exclude_none=True, exclude={"blocks"}),
            "input_size": list(self.input_size),
            "weights_sha256": fingerprint(model),
            "config": config.model_dump(),
        }
        self._claim_folder()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @cached_property
    def example(self) -> Tensor:
        """One random batch ``[batch_size, C, H, W]`` for timing, on the device."""
        shape = (self.config.batch_size, *self.input_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def training_images(self, count: int) -> Tensor:
        """The first training images of the seeded order: the same in every process, every stage and every run."""
        seed_everything(self.config.seed, "images", 0)
        return first_images(self.train_loader, count).to(self.device)

    @cached_property
    def recalibration_batches(self) -> list[Tensor]:
        """A few training batches on the device."""
        size = self.config.batch_size
        images = self.training_images(self.config.recalibration_batches * size)
        return list(torch.split(images, size))

    def evaluate(self, model: nn.Module) -> float:
        """Accuracy on the validation split."""
        return evaluate(model, self.val_loader, self.device)

    # What stages store: each file is wholly there or not at all.

    def store_state(self, name: str, model: nn.Module) -> None:
        if self.main:
            with atomic_path(self.folder / name) as temporary:
                save_file(cpu_state(model), temporary)

    def load_state(self, name: str, model: nn.Module) -> nn.Module:
        return load_weights(self.folder / name, model)

    def store(self, name: str, value: BaseModel) -> None:
        if self.main:
            write_text(self.folder / name, value.model_dump_json(indent=2) + "\n")

    def load(self, name: str, kind: type[ModelT]) -> ModelT:
        return read_result(self.folder / name, kind)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def on_main(self, name: str, make: Callable[[], None]) -> None:
        """Let the main process make the file `name` unless it is there; the others wait for it."""
        if self.main and not self.has(name):
            make()
        self.accelerator.wait_for_everyone()

    def _claim_folder(self) -> None:
        path = self.folder / "run.json"
        if self.main:
            remove_leftovers(self.folder)
        if self.main and not path.exists():
            if self.folder.exists() and any(p.name != "log.txt" for p in self.folder.iterdir()):
                raise RunError(f"{self.folder}: not empty and no run of updp_rt; choose another folder")
            write_json(path, self.identity)
        self.accelerator.wait_for_everyone()
        found = read_identity(self.folder)
        differing = [f"{key}: {ours!r} now, {theirs!r} there" for key, ours, theirs in _compare(self.identity, found)]
        if differing:
            raise RunError(
                f"{self.folder}: holds another run ({'; '.join(differing[:4])}); choose another folder or delete it"
            )


def read_identity(folder: Path) -> dict[str, Any]:
    """What a run folder says it is; raises `RunError` where it is none."""
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: not the folder of a pruning run ({error})") from error
    if not isinstance(found, dict) or not {"architecture", "model_args", "config"} <= found.keys():
        raise RunError(f"{path}: not the folder of a pruning run")
    return found


def load_weights(path: Path, model: nn.Module) -> nn.Module:
    """Load a stage's weights into `model`; raises `RunError` where they are missing or damaged."""
    try:
        model.load_state_dict(load_file(_existing(path)))
    except (SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: damaged ({str(error)[:200]}); delete it to run its stage again") from error
    return model


def read_result(path: Path, kind: type[ModelT]) -> ModelT:
    """A stage's result; raises `RunError` where it is missing or damaged."""
    try:
        return kind.model_validate_json(_existing(path).read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: damaged ({error.error_count()} errors); delete it to run its stage again") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise RunError(f"{path}: not there; run the stage that writes it first")
    return path


def _compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    flat_ours, flat_theirs = _flatten(ours), _flatten(theirs)
    keys = [*flat_ours, *(key for key in flat_theirs if key not in flat_ours)]
    return [(k, flat_ours.get(k), flat_theirs.get(k)) for k in keys if flat_ours.get(k) != flat_theirs.get(k)]


def _flatten(value: dict[str, Any]) -> dict[str, Any]:
    flat = {key: item for key, item in value.items() if key != "config"}
    return flat | dict(value.get("config", {}))
