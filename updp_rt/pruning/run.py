"""A pruning run on disk: its model, its data, its settings, and the folder that holds what each stage found."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from updp_rt._copies import copy_model
from updp_rt.artifacts.atomic import atomic_path, write_json, write_text
from updp_rt.artifacts.describe import describe_model
from updp_rt.artifacts.preprocessing import Augmentation
from updp_rt.artifacts.weights import cpu_state, fingerprint
from updp_rt.blocks import pruned_bodies, skippable_blocks
from updp_rt.blocks.parts import AFFINE, SKIP
from updp_rt.data import Loader, first_images, make_loader
from updp_rt.data.sharing import PartedImages, count_batches
from updp_rt.pruning.claim import InUseError, RunError, differing, is_begun, locked, read_identity, with_defaults
from updp_rt.pruning.config import ANY, SAME_RESULTS, PruneConfig
from updp_rt.pruning.latency import PLAIN, Kernels
from updp_rt.pruning.method import JOURNAL, find_method
from updp_rt.pruning.noise import Hits
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.ranks import added, processes
from updp_rt.pruning.study import Database
from updp_rt.pruning.tabulated import count_trials
from updp_rt.pruning.trainer import evaluate, find_non_finite, make_accelerator, outputs, seed_everything

Data = Dataset[Any] | Loader
ModelT = TypeVar("ModelT", bound=BaseModel)

RUN, LATENCY, SUPERNET, SEARCH = "run.json", "latency.json", "supernet.safetensors", "search.json"
SUBNET, HISTORY, LAMBDA, MERGED, SUMMARY = "subnet.safetensors", "history.csv", "lambda.csv", "merged", "summary.json"
SUPERNET_CHECKPOINT, SUBNET_CHECKPOINT = "supernet.ckpt", "subnet.ckpt"
# What each stage spends its time on: a run with other settings of that stage may not go on from it.
_COSTLY = {
    "supernet": (SUPERNET, SUPERNET_CHECKPOINT),
    "search": (SEARCH, JOURNAL),
    "train": (SUBNET, SUBNET_CHECKPOINT),
}
_STAGES = list(_COSTLY)


class Run:
    """Everything the four stages share. `model` is left untouched; stages work on copies.

    Args:
        model: a timm model with the weights to start from.
        train, val, test: data sets or ready loaders of ``(image, label)``; without a test split the last figures are
            taken on `val`, and the summary says so.
        model_args: arguments of ``timm.create_model`` beyond those that can be read off the model.
        folder: where results go. A folder of the same run is resumed; one of another run is refused, unless what
            differs concerns no stage that was begun. Nothing is written before `claimed`.
        reuse: folder of another run of this model, whose latencies, supernet and search are taken over as far as the
            settings that they depend on are the same.
        storage: ``postgresql://USER@HOST/DATABASE``, where the search is kept and shared with other machines; by
            default it is kept in the folder.
        augmentation: what is done to training images, recorded: a run goes on with the same.
        notes: lines on the data, for the log.
        kernels: what models are timed on.

    Raises:
        `ArtifactError`, `UnsupportedModelError`: the model cannot be pruned or could not be saved afterwards.
        ValueError: more blocks to prune than there are, an unknown body, weights that are not finite, or a batch
        larger than the training images, or a method or address that cannot share a search.
        StorageError: the database cannot be reached.
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
        reuse: str | Path | None = None,
        storage: str | None = None,
        augmentation: Augmentation | None = None,
        notes: Sequence[str] = (),
        kernels: Kernels = PLAIN,
        show_progress: bool = True,
    ) -> None:
        self.augmentation, self.notes, self.kernels = augmentation, notes, kernels
        self.model, self.folder, self.config = copy_model(model), Path(folder), config
        self.reuse = None if reuse is None else Path(reuse)
        self.method = find_method(config.method)
        self.method.check(model, config)
        self.names = self.method.names(model)
        whole = [AFFINE, *([SKIP] if skippable_blocks(model) else [])] if self.method.searches else []
        if config.body not in (known := ("auto", ANY, *pruned_bodies(model), *whole)):
            raise ValueError(f"no pruned body {config.body!r}; choose one of {', '.join(known)}")
        if self.reuse is not None:
            read_run(self.reuse)
        self.storage = storage
        if storage is not None:
            self._check_storage(storage)
        self.accelerator = make_accelerator(config.mixed_precision)
        check_start(model, train, config.batch_size)
        self.main = self.accelerator.is_main_process
        self.progress = Progress(self.folder / "log.txt" if self.main else None, show=show_progress and self.main)
        size, seed, workers = config.batch_size, config.seed, config.workers
        self.train_loader = make_loader(train, size, training=True, seed=seed, workers=workers)
        self.config = config = self._filled(config)
        self.val_loader = make_loader(val, size, training=False, workers=workers)
        self.test_loader = self.val_loader if test is None else make_loader(test, size, training=False, workers=workers)
        self.has_test = test is not None
        self.model_args = model_args
        # From the data, not from the model's timm configuration: a CNN takes any size, and costs depend on it.
        channels, height, width = next(iter(self.val_loader))[0].shape[1:]
        self.input_size = (channels, height, width)
        described = describe_model(model, model_args).model_dump(mode="json", exclude_none=True)
        self.identity = {
            **{key: value for key, value in described.items() if key != "blocks" or value},
            "input_size": list(self.input_size),
            "weights_sha256": fingerprint(model),
            **({"augmentation": augmentation.model_dump(mode="json")} if augmentation else {}),
            "config": config.model_dump(),
        }

    def _filled(self, config: PruneConfig) -> PruneConfig:
        """`config` with what was left to the steps at hand: as this folder was begun, or the supernet taken over."""
        for folder, left in ((self.folder, ("supernet_epochs", "ramp")), (self.reuse, ("supernet_epochs",))):
            if folder is not None and (folder / RUN).exists():
                begun, given = read_run(folder)["config"], config.model_fields_set
                config = config.model_copy(update={n: begun[n] for n in left if n in begun and n not in given})
        return self.method.fill(config, self.steps(1))

    @contextmanager
    def claimed(self, *, join: bool = False) -> Iterator[None]:
        """Hold the run's folder alone while stages work in it; all processes of the run enter together.

        Args:
            join: where another process holds it, work at its search beside it.

        Raises:
            RunError: the folder is in use, or holds another run or other things; or `reuse` holds no supernet that was
                trained like this run's.
        """
        with ExitStack() as held:
            if self.main:
                is_begun(self.folder, RUN)  # before a lock is put there
                try:
                    held.enter_context(locked(self.folder))
                except InUseError:
                    if not join:
                        raise
                    self._join()
                else:
                    self._begin()
                    for note in self.notes:
                        self.progress.log(note)
                    self._take_over()
            self.accelerator.wait_for_everyone()
            yield

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def steps(self, epochs: int) -> int:
        """Steps of the optimizer in so many epochs."""
        return epochs * -(-count_batches(self.train_loader, processes()) // self.config.accumulate)

    @property
    def trials(self) -> int:
        """Candidates that the search judges, at most: until latencies are known, any pruned body may be worth one."""
        bodies = 1 + len(pruned_bodies(self.model)) if self.config.body == ANY else 1
        return count_trials(self.config.search, bodies * len(self.names), self.config.trials)

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

    @property
    def study(self) -> Path | Database:
        """Where the search is kept: in the folder, or in a database, by a name that follows from all it depends on."""
        if self.storage is None:
            return self.folder / JOURNAL
        settings = {
            name: value
            for name, value in self.config.model_dump().items()
            if name not in SAME_RESULTS and self.method.first_stage(name) != "train"
        }
        digest = hashlib.sha256(json.dumps({**self.identity, "config": settings}, sort_keys=True).encode())
        for name in (LATENCY, SUPERNET):
            digest.update((self.folder / name).read_bytes())
        return Database(self.storage, f"updp_rt {digest.hexdigest()[:24]}")

    def evaluate(self, model: nn.Module, *, together: bool = False) -> float:
        """Accuracy on the validation split, of which with `together` each process of the run takes a part."""
        return evaluate(model, self.val_loader, self.device, self.progress.still_here, together=together)

    def judge(self, model: nn.Module) -> Hits:
        """Which images of the validation split a model gets right, and how sure of it it is."""

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in outputs(model, self.val_loader, self.device):
                self.progress.still_here()
                yield batch

        return Hits.of(batches())

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

    def is_done(self, name: str) -> bool:
        """Whether a stage's result is there; all processes ask together and hear what the main one sees.

        By the time that another looks the main one may have written it, and they would go different ways.
        """
        return bool(added([self.main and self.has(name)], self.device)[0])

    def on_main(self, name: str, make: Callable[[], None]) -> None:
        """Let the main process make the file `name` unless it is there; the others wait for it."""
        if self.main and not self.has(name):
            make()
        self.accelerator.wait_for_everyone()

    def _begin(self) -> None:
        """Make the folder this run's, where it is no other's already."""
        path = self.folder / RUN
        if not is_begun(self.folder, RUN):
            write_json(path, self.identity)
            return
        changed = _compare(self.identity, read_run(self.folder))
        first = self._first_stage(changed)
        if first is None:
            return
        begun = [name for stage in _STAGES[_STAGES.index(first) :] for name in _COSTLY[stage] if self.has(name)]
        if begun:
            advice = "choose another folder or delete it"
            if first != "supernet":
                advice += (
                    f"; with reuse={str(self.folder)!r} (--reuse) another folder takes over what both have in common"
                )
            raise RunError(f"{self.folder}: holds another run ({'; '.join(list(changed.values())[:4])}); {advice}")
        if first == "supernet":
            (self.folder / LATENCY).unlink(missing_ok=True)
        write_json(path, self.identity)

    def _join(self) -> None:
        """Raise `RunError` unless the process that holds the folder is at the same search, or past it."""
        changed = _compare(self.identity, read_run(self.folder))
        odd = [words for name, words in changed.items() if self.method.first_stage(name) != "train"]
        if odd:
            raise RunError(
                f"{self.folder}: another process is at another search in it ({'; '.join(odd[:4])}); give the same "
                "settings, or choose another folder"
            )
        missing = [name for name in (LATENCY, SUPERNET) if not self.has(name)]
        if missing:
            raise RunError(
                f"{self.folder}: another process is still at the stage before the search, which writes {missing[0]}; "
                "wait for it"
            )
        self.progress.log("search: another process holds the folder; working at its search")

    def _check_storage(self, address: str) -> None:
        if not self.method.searches:
            raise ValueError(
                f"the method {self.method.name} chooses blocks without a search that is shared: leave out storage "
                "(--storage)"
            )
        if not self.has(SEARCH):
            from updp_rt.pruning.database import check_address

            check_address(address)

    def _take_over(self) -> None:
        """Copy what another run found that this one would find too."""
        if self.reuse is None or self.reuse.resolve() == self.folder.resolve():
            return
        changed = _compare(self.identity, read_run(self.reuse))
        first = self._first_stage(changed)
        if first == "supernet":
            raise RunError(
                f"{self.reuse}: its supernet is not this run's ({'; '.join(list(changed.values())[:4])}): "
                "give the same settings, or leave out reuse"
            )
        if not (self.reuse / SUPERNET).exists():
            raise RunError(f"{self.reuse}: has no trained supernet to take over")
        for name in (LATENCY, SUPERNET, *(() if first == "search" else (SEARCH,))):
            if (self.reuse / name).exists() and not self.has(name):
                with atomic_path(self.folder / name) as temporary:
                    shutil.copyfile(self.reuse / name, temporary)
                self.progress.log(f"{name}: taken over from {self.reuse}")

    def _first_stage(self, changed: Mapping[str, str]) -> str | None:
        return min((self.method.first_stage(key) for key in changed), key=_STAGES.index, default=None)


def check_start(model: nn.Module, train: Data, batch_size: int) -> None:
    """Raise `ValueError` where training cannot begin: weights that are not finite, or too few images for a batch."""
    odd = find_non_finite(model)
    if odd is not None:
        raise ValueError(f"the model to start from is damaged: {odd} holds NaN or infinity; give other weights")
    if isinstance(train, DataLoader):
        if not isinstance(train.dataset, IterableDataset) and len(train) == 0:
            raise ValueError("the training split gives no batch; use a smaller batch size or more images")
        return
    if isinstance(train, IterableDataset) and not isinstance(train, PartedImages):
        return
    images = len(train)  # type: ignore[arg-type]
    if 0 < images < batch_size * processes():
        each = "" if processes() == 1 else f" in each of {processes()} processes"
        raise ValueError(
            f"batch_size is {batch_size}{each}, but there are {images} training images: "
            f"give {images // processes()} or less"
        )


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's folder says it is; raises `RunError` if it is not one."""
    return read_identity(folder / RUN, {"architecture", "model_args", "input_size", "config"})


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


def _compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two runs and matters."""
    changed = differing(ours, {**theirs, "config": with_defaults(PruneConfig, theirs["config"])})
    return {key: words for key, words in changed.items() if key not in SAME_RESULTS}
