"""Running a comparison's jobs: one file of results each, written at its end, so that a stopped comparison goes on.

Several processes may work in one folder: each takes the next job that no other is at. Folders filled on several
machines (`shard`) are put together by copying their files into one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

import updp_rt
from updp_rt._copies import copy_model
from updp_rt.artifacts import fingerprint, save
from updp_rt.artifacts.atomic import write_json, write_text
from updp_rt.artifacts.describe import describe_model
from updp_rt.artifacts.store import MANIFEST
from updp_rt.blocks import count_costs, count_depth
from updp_rt.comparison.plan import (
    BASELINE,
    CompareConfig,
    Job,
    check_jobs,
    epoch_steps,
    plan_jobs,
    prune_config,
    width_epochs,
)
from updp_rt.comparison.width import narrow
from updp_rt.data import Splits, first_images, make_loader
from updp_rt.pruning import Run, RunError, TrainConfig, train_baseline
from updp_rt.pruning.claim import LOCK, differing, is_begun, read_identity, with_defaults
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import PLAIN, Kernels
from updp_rt.pruning.pipeline import run_stages
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.run import MERGED, SUMMARY
from updp_rt.pruning.stopping import stoppable
from updp_rt.pruning.trainer import evaluate, fit, label_losses, make_accelerator, recipe_of, seed_everything

IDENTITY, ROWS, RUNS, BASELINES = "compare.json", "rows", "runs", "baselines"
CHOOSING = 64  # training images that channels are chosen by


class Outcome(BaseModel):
    """What one job gave: figures of the merged or narrowed model, or why there are none (`failed`).

    Attributes:
        pruned: blocks, or parts of blocks, that were pruned.
        seconds: that the job took, in the process that ended it.
    """

    model_config = ConfigDict(extra="forbid")

    method: str
    goal: float
    seed: int
    accuracy: float = 0.0
    pruned: int = 0
    depth: int = 0
    params: int = 0
    macs: int = 0
    seconds: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Contest:
    """A comparison: the folder it fills, its settings, its data, and how the model of a seed is made and trained.

    Attributes:
        create: the untrained model of a seed; or a trained one, the same for every seed, where `training` is None.
        name: what the model is called.
        show: whether to say on stderr how far each job is; logs are written all the same.
        kernels: what searches go by the times of.
    """

    folder: Path
    name: str
    config: CompareConfig
    splits: Splits
    data: str
    create: Callable[[int], nn.Module]
    training: TrainConfig | None
    show: bool = True
    kernels: Kernels = PLAIN

    def begin(self) -> None:
        """Make the folder this comparison's; raises `RunError` if it is another's, `ValueError` where one cannot be.

        More seeds, methods and goals may be asked for later: what is there stays.
        """
        check_jobs(self.config, self.create(0))
        path, ours = self.folder / IDENTITY, self._identity()
        if not (self.folder / LOCK).exists():  # before a lock is put there
            is_begun(self.folder, IDENTITY)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK):  # of several that begin together one is the first
            if is_begun(self.folder, IDENTITY):
                theirs = read_identity(path, {"config", "model", "data"})
                if theirs.get("training") is not None:
                    theirs["training"] = with_defaults(TrainConfig, theirs["training"])
                    theirs["training"].pop("seed")
                changed = differing(ours, theirs)
                for grows in ("methods", "num_pruned", "amounts", "seeds"):
                    changed.pop(grows, None)
                if changed:
                    raise RunError(
                        f"{self.folder}: holds another comparison ({'; '.join(list(changed.values())[:4])}); choose "
                        "another folder or delete it"
                    )
            write_json(path, ours)

    def baseline(self, seed: int) -> nn.Module:
        """The trained model that all jobs of a seed start from: trained by whoever comes first."""
        if self.training is None:
            return self.create(seed)
        folder = self.folder / BASELINES / f"seed-{seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # freed where its holder dies
            if (folder / MANIFEST).exists():
                return updp_rt.load(folder)
            training = self.training.model_copy(update={"seed": seed})
            splits = self.splits
            return train_baseline(
                self.create(seed),
                splits.train,
                splits.val,
                folder,
                training,
                test=splits.test,
                augmentation=splits.augmentation,
                notes=splits.describe(),
                show_progress=self.show,
            )

    def row(self, key: str) -> Path:
        """The file of a job's results."""
        return self.folder / ROWS / f"{key}.json"

    def _identity(self) -> dict[str, Any]:
        model = self.create(0)
        described = describe_model(model).model_dump(mode="json", exclude_none=True)
        return {
            **described,
            "model": self.name,
            "data": self.data,
            "images": [_length(self.splits.train), _length(self.splits.val), _length(self.splits.test)],
            "weights_sha256": fingerprint(model),
            "training": None if self.training is None else self.training.model_dump(exclude={"seed"}),
            "config": self.config.model_dump(mode="json"),
        }


def run_jobs(contest: Contest, *, shard: tuple[int, int] = (1, 1), progress: Progress | None = None) -> list[Job]:
    """Do the jobs that have no results yet; returns those that are still without any.

    Args:
        shard: ``(i, n)``, the i-th of n parts of the jobs, from 1.

    Raises:
        RunError: the folder is another comparison's. ValueError: a method cannot prune the model as asked.
    """
    contest.begin()
    progress = progress or Progress(contest.folder / "log.txt", show=contest.show)
    part, parts = shard
    jobs = plan_jobs(contest.config)
    mine = [job for index, job in enumerate(jobs) if index % parts == part - 1]
    with stoppable(contest.folder, progress.log):
        for number, job in enumerate(mine, 1):
            if _is_done(contest, job.key):
                continue
            try:
                with _hold(contest, job, timeout=0):
                    if _is_done(contest, job.key):
                        continue
                    progress.log(f"job {number} of {len(mine)}: {job.label}, seed {job.seed}")
                    outcome = _attempt(contest, job)
                    _store(contest, job.key, outcome)
                    found = outcome.failed or f"accuracy {outcome.accuracy:.4f} in {outcome.seconds:.0f} s"
                    progress.log(f"{job.label}, seed {job.seed}: {found}")
            except Timeout:
                progress.log(f"{job.key}: another process is at it")
        for seed in sorted({job.seed for job in mine}):
            _judge_baseline(contest, seed)
    return [job for job in jobs if not _is_done(contest, job.key)]


def do_job(contest: Contest, job: Job) -> Outcome:
    """Do one job, or go on with it; its model is then in the folder `model_folder`.

    Raises:
        ValueError: the method cannot prune the model as asked, or training diverged.
    """
    begun = time.monotonic()
    outcome = (_narrow if job.is_width else _prune)(contest, job)
    return outcome.model_copy(update={"seconds": time.monotonic() - begun})


def model_folder(folder: Path, job: Job) -> Path:
    """Where a comparison's folder has the model that came of a job."""
    return folder / RUNS / job.key / MERGED


def _attempt(contest: Contest, job: Job) -> Outcome:
    try:
        return do_job(contest, job)
    except (ValueError, RuntimeError) as error:  # the other methods are still worth comparing
        words = " ".join(str(error).split())[:300]
        return Outcome(method=job.method, goal=job.goal, seed=job.seed, failed=f"{type(error).__name__}: {words}")


def _prune(contest: Contest, job: Job) -> Outcome:
    splits, folder = contest.splits, contest.folder / RUNS / job.key
    run = Run(
        contest.baseline(job.seed),
        splits.train,
        splits.val,
        folder,
        prune_config(contest.config, job, epoch_steps(contest.config, _length(splits.train))),
        test=splits.test,
        augmentation=splits.augmentation,
        notes=splits.describe(),
        kernels=contest.kernels,
        show_progress=contest.show,
    )
    run_stages(run)
    summary = read_identity(folder / SUMMARY, {"merged", "blocks"})
    figures = {name: summary["merged"][name] for name in ("accuracy", "depth", "params", "macs")}
    return Outcome(method=job.method, goal=job.goal, seed=job.seed, pruned=len(summary["blocks"]), **figures)


def _narrow(contest: Contest, job: Job) -> Outcome:
    """Remove channels, train what is left, and store it as runs store what they merge."""
    splits, folder = contest.splits, contest.folder / RUNS / job.key
    config = _shared(contest.config, job.seed)
    model = contest.baseline(job.seed)
    accelerator = make_accelerator(config.mixed_precision)
    loader = make_loader(splits.train, config.batch_size, training=True, seed=job.seed, workers=config.workers)
    seed_everything(job.seed, "images", 0)
    images = first_images(loader, CHOOSING)
    model = narrow(job.name, model, images, job.goal)
    fit(
        model,
        loader,
        label_losses(config.label_smoothing),
        recipe_of(config, width_epochs(contest.config), config.lr),
        stage="train",
        accelerator=accelerator,
        progress=Progress(folder / "log.txt", show=contest.show),
        checkpoint=folder / "subnet.ckpt",
    )
    model = model.cpu().eval()
    size = _size(images)
    accuracy = _accuracy(contest, model, config)
    save(model, model_folder(contest.folder, job), input_size=size, accuracy=accuracy, augmentation=splits.augmentation)
    (folder / "subnet.ckpt").unlink(missing_ok=True)
    return _figures(Outcome(method=job.method, goal=job.goal, seed=job.seed, accuracy=accuracy), model, size)


def _judge_baseline(contest: Contest, seed: int) -> None:
    """The row of a seed's baseline; it is stored where its jobs' models are."""
    job = Job(BASELINE, 0, seed)
    with _hold(contest, job, timeout=-1):
        if _is_done(contest, job.key):
            return
        model, config = contest.baseline(seed), _shared(contest.config, seed)
        size = _size(next(iter(make_loader(contest.splits.val, 1, training=False)))[0])
        accuracy = _accuracy(contest, model, config)
        save(model, model_folder(contest.folder, job), input_size=size, accuracy=accuracy)
        _store(contest, job.key, _figures(Outcome(method=BASELINE, goal=0, seed=seed, accuracy=accuracy), model, size))


@contextmanager
def _hold(contest: Contest, job: Job, timeout: float) -> Iterator[None]:
    """Be alone at a job; raises `Timeout` where another process is at it. Whoever dies lets go of it."""
    folder = contest.folder / RUNS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{job.key}.lock", timeout=timeout):
        yield


def _shared(config: CompareConfig, seed: int) -> PruneConfig:
    return PruneConfig.model_validate({**config.settings, "num_pruned": 1, "seed": seed})


def _accuracy(contest: Contest, model: nn.Module, config: PruneConfig) -> float:
    """On the images that nothing was trained on or chosen by."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = make_loader(contest.splits.test, config.batch_size, training=False, workers=config.workers)
    return evaluate(copy_model(model).to(device), loader, device)


def _figures(outcome: Outcome, model: nn.Module, size: tuple[int, int, int]) -> Outcome:
    cost, _ = count_costs(model, size)
    return outcome.model_copy(update={"depth": count_depth(model), "params": cost.params, "macs": cost.macs})


def _size(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _store(contest: Contest, key: str, outcome: Outcome) -> None:
    write_text(contest.row(key), outcome.model_dump_json(indent=2) + "\n")


def _is_done(contest: Contest, key: str) -> bool:
    """Whether a job has results; one that failed has none, and is tried again."""
    try:
        return not read_outcome(contest.row(key)).failed
    except FileNotFoundError:
        return False


def read_outcome(path: Path) -> Outcome:
    """A job's results; raises `RunError` where they are damaged."""
    try:
        return Outcome.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: damaged ({error.error_count()} errors); delete it to run its job again") from error


def _length(data: Any) -> int | None:
    return len(data) if hasattr(data, "__len__") else None
