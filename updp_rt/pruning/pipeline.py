"""The four stages in their order: for `prune`, the command line, resumed runs, and merging again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from updp_rt.artifacts import save
from updp_rt.artifacts.describe import skeleton
from updp_rt.artifacts.manifest import Description
from updp_rt.blocks.inspect import architecture
from updp_rt.data.sharing import count_batches
from updp_rt.pruning.config import STAGES, PruneConfig
from updp_rt.pruning.latency import PLAIN, Kernels
from updp_rt.pruning.ranks import processes
from updp_rt.pruning.run import MERGED, SEARCH, SUBNET, SUMMARY, SUPERNET, Data, Run, read_result, read_run
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.stages import (
    load_subnet,
    merge_subnet,
    search_subnet,
    store_merged,
    train_subnet,
    train_supernet,
)
from updp_rt.pruning.stopping import stoppable

_STAGES: dict[str, Callable[[Run], None]] = {
    "supernet": train_supernet,
    "search": search_subnet,
    "train": train_subnet,
    "merge": store_merged,
}


def run_stages(run: Run, stages: Sequence[str] = STAGES) -> None:
    """Run these of `STAGES`, in the order given, on what the stages before them left in the run's folder.

    The stage search alone may be run by several processes at once. SIGTERM ends the process with status 143; the same
    call goes on.

    Raises:
        RunError: the folder is in use or another's, or lacks what an earlier stage writes.
        DivergedError: training met NaN or infinity. ValueError: no subnet is as fast as the run wants.
        WriteError: a file cannot be written, as on a full disk. StorageError: the database is gone.
    """
    join = tuple(stages) == ("search",) and run.method.searches
    with stoppable(run.folder, run.progress.log), run.claimed(join=join):
        run.progress.expect(_work(run, stages))
        for stage in stages:
            _STAGES[stage](run)


def _work(run: Run, stages: Sequence[str]) -> dict[str, float]:
    """What is still to do, in batches that pass forward once: a step of training is three of them."""
    config, train, val = run.config, count_batches(run.train_loader, processes()), len(run.val_loader)
    work = {
        "supernet": (SUPERNET, config.supernet_epochs * train * 3 * run.method.passes(config)),
        "search": (SEARCH, run.trials * (config.recalibration_batches + val)),
        "train": (SUBNET, config.epochs * (train * (3 + (config.distill > 0)) + val)),
    }
    left = {stage: amount for stage, (result, amount) in work.items() if stage in stages and not run.has(result)}
    return {"subnet" if stage == "train" else stage: float(amount) for stage, amount in left.items()}


def default_folder(model: nn.Module, config: PruneConfig) -> Path:
    """``runs/<architecture>-p<blocks>``, ``-s<speed-up>``, ``-x<share>`` or ``-front``; a rival's name, ``-direct``."""
    if config.num_pruned:
        goal = f"p{config.num_pruned}"
    elif config.target_speedup:
        goal = f"s{config.target_speedup:g}"
    else:
        goal = f"x{config.max_latency:g}" if config.max_latency else "front"
    how = "" if config.method == "updp" else f"-{config.method}"
    return Path("runs") / f"{architecture(model)}-{goal}{how}{'-direct' if config.direct else ''}"


def merge_folder(folder: str | Path, out: str | Path | None = None, form: str = "auto") -> Path:
    """Merge the trained subnet that a run left in `folder`, without its data; returns where the model was saved.

    Args:
        form: "auto" for each block's fastest form by the run's latency table, or one form for all.

    Raises:
        RunError: `folder` is not a run, or its subnet is not trained yet.
        ValueError: no such form.
    """
    folder = Path(folder)
    identity = read_run(folder)
    known = {key: identity[key] for key in Description.model_fields if key in identity}
    start = skeleton(Description.model_validate(known))
    return save(
        merge_subnet(load_subnet(start, folder), folder, form),
        out or folder / MERGED,
        model_args=identity["model_args"],
        input_size=tuple(identity["input_size"]),
        augmentation=identity.get("augmentation"),
    )


@dataclass(frozen=True)
class PruneResult:
    """What a finished run left in its folder."""

    run: Run

    @property
    def folder(self) -> Path:
        return self.run.folder

    @cached_property
    def search(self) -> SearchResult:
        """Every candidate, and the one chosen."""
        return read_result(self.folder / SEARCH, SearchResult)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        found: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        return found

    @cached_property
    def subnet(self) -> nn.Module:
        """The trained subnet at λ = 1, not yet merged."""
        return load_subnet(self.run.model, self.folder).to(self.run.device)

    @property
    def pruned(self) -> dict[str, str]:
        """The pruned blocks and the pruned body of each."""
        return self.search.bodies

    def merge(self) -> nn.Module:
        """The merged model: plain torch modules, shallower, computing what the subnet computes."""
        return merge_subnet(self.subnet, self.folder)


def prune(
    model: nn.Module,
    train: Data,
    val: Data,
    *,
    test: Data | None = None,
    num_pruned: int | None = None,
    target_speedup: float | None = None,
    max_latency: float | None = None,
    front: bool = False,
    out: str | Path | None = None,
    config: PruneConfig | None = None,
    model_args: dict[str, Any] | None = None,
    reuse: str | Path | None = None,
    kernels: Kernels = PLAIN,
    storage: str | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> PruneResult:
    """Prune the depth of a timm model: supernet, search, progressive training, merging. Resumable.

    Args:
        model: timm model of a known family, with the weights to start from; left untouched.
        train, val: data sets (or loaders) of ``(image [C, H, W], label)``. `val` chooses between subnets.
        test: split for the last figures, which nothing is chosen by; without it they are taken on `val`.
        num_pruned: how many blocks to prune. Or else `target_speedup`: how many times as fast as the baseline by the
            latency table, at least; `max_latency`: latency allowed, as a share of the baseline's; or `front`: what
            costs no accuracy that the validation images can show.
        out: folder for results; ``runs/<architecture>-p<num_pruned>`` by default. The same call with the same folder
            goes on where a killed run stopped and ends, on a CPU, with the same bits.
        model_args: arguments `model` was created with, if they cannot be read off it (``{"depths": (2, 2)}``).
        reuse: folder of another run of this model: its latencies, supernet and search are taken over as far as the
            settings they depend on are the same, so that only training is repeated (``direct=True, lr=1e-3``).
        kernels: what models are timed on: ``updp_rt.runtime.FUSED`` where the merged model will run accelerated.
        storage: ``postgresql://USER@HOST/DATABASE``, to keep the search in; by default it is in the folder.
        config: all settings at once; `settings` are single fields of `PruneConfig` (``epochs=30, lr=1e-3``).

    Raises:
        UnsupportedModelError: no known family, or no prunable block.
        ArtifactError: the model could not be saved afterwards (not created by timm).
        RunError: `out` is in use or holds another run.
        DivergedError: training met NaN or infinity.
        WriteError: a file cannot be written, as on a full disk; the same call goes on once there is room.
        StorageError: the database cannot be reached.
        ValueError: no subnet is as fast as wanted; said before anything is trained, with what can be reached.
        pydantic.ValidationError: a setting is unknown or out of range.
    """
    goals = {"num_pruned": num_pruned, "target_speedup": target_speedup, "max_latency": max_latency}
    given = {**goals, "front": front or None, **settings}
    given = {key: value for key, value in given.items() if value is not None}
    config = PruneConfig.model_validate({**(config.model_dump(exclude_none=True) if config else {}), **given})
    out = out or default_folder(model, config)
    run = Run(
        model,
        train,
        val,
        out,
        config,
        test=test,
        model_args=model_args,
        reuse=reuse,
        kernels=kernels,
        storage=storage,
        show_progress=show_progress,
    )
    run_stages(run)
    return PruneResult(run)
