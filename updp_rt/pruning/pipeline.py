"""The whole of UPDP in one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from updp_rt.artifacts import save
from updp_rt.artifacts.describe import build
from updp_rt.artifacts.manifest import ModelArgs
from updp_rt.artifacts.preprocessing import Preprocessing, set_preprocessing
from updp_rt.blocks import make_progressive, merge_model, set_lambda
from updp_rt.blocks.inspect import architecture
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Data, Run, load_weights, read_identity, read_result
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.stages import (
    LATENCY,
    MERGED,
    SEARCH,
    SUBNET,
    SUMMARY,
    merge_subnet,
    search_subnet,
    train_subnet,
    train_supernet,
)

_STAGES: dict[str, Callable[[Run], object]] = {
    "supernet": train_supernet,
    "search": search_subnet,
    "train": train_subnet,
    "merge": merge_subnet,
}
STAGES = tuple(_STAGES)


def run_stage(run: Run, stage: str) -> None:
    """Run one of `STAGES` on what the stages before it left in the run's folder."""
    _STAGES[stage](run)


def default_folder(model: nn.Module, config: PruneConfig) -> Path:
    """``runs/<architecture>-p<blocks>``, or ``-x<share>`` for a latency goal."""
    goal = f"p{config.num_pruned}" if config.num_pruned else f"x{config.max_latency:g}"
    return Path("runs") / f"{architecture(model)}-{goal}"


def merge_folder(folder: str | Path, out: str | Path | None = None, form: str = "auto") -> Path:
    """Merge the trained subnet that a run left in `folder`, without its data; returns where the model was saved.

    Args:
        form: "auto" for each block's fastest form by the run's latency table, or one form for all.

    Raises:
        RunError: `folder` is no run, or its subnet is not trained yet.
        ValueError: no such form.
    """
    folder = Path(folder)
    identity = read_identity(folder)
    model = build(identity["architecture"], ModelArgs.model_validate(identity["model_args"]))
    if "preprocessing" in identity:
        preprocessing = Preprocessing.model_validate(identity["preprocessing"])
        set_preprocessing(model, preprocessing, tuple(identity["input_size"]))
    search = read_result(folder / SEARCH, SearchResult)
    subnet = make_progressive(model, search.bodies)
    load_weights(folder / SUBNET, subnet)
    set_lambda(subnet, 1.0)
    forms = dict.fromkeys(search.bodies, form)
    if form == "auto":
        forms = read_result(folder / LATENCY, LatencyTable).choose_forms(search.bodies)
    return save(
        merge_model(subnet, forms),
        out or folder / MERGED,
        model_args=identity["model_args"],
        input_size=tuple(identity["input_size"]),
    )


@dataclass(frozen=True)
class PruneResult:
    """What a run found. `subnet` is at λ = 1, not yet merged; `summary` is the content of ``summary.json``."""

    folder: Path
    subnet: nn.Module
    search: SearchResult
    summary: dict[str, Any]
    run: Run

    @property
    def pruned(self) -> dict[str, str]:
        """The pruned blocks and the pruned body of each."""
        return self.search.bodies

    def merge(self) -> nn.Module:
        """The merged model: plain torch modules, shallower, computing what the subnet computes."""
        return merge_subnet(self.run)


def prune(
    model: nn.Module,
    train: Data,
    val: Data,
    *,
    test: Data | None = None,
    num_pruned: int | None = None,
    max_latency: float | None = None,
    out: str | Path | None = None,
    config: PruneConfig | None = None,
    model_args: dict[str, Any] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> PruneResult:
    """Prune the depth of a timm model: supernet, search, progressive training, merging. Resumable.

    Args:
        model: timm model of a known family, with the weights to start from; left untouched.
        train, val: data sets (or loaders) of ``(image [C, H, W], label)``. `val` chooses between subnets.
        test: split for the last figures, which nothing is chosen by; without it they are taken on `val`.
        num_pruned: how many blocks to prune. Or else `max_latency`: latency allowed, as a share of the baseline's.
        out: folder for results; ``runs/<architecture>-p<num_pruned>`` by default. The same call with the same folder
            goes on where a killed run stopped and ends, on a CPU, with the same bits.
        model_args: arguments `model` was created with, where they cannot be read off it (``{"depths": (2, 2)}``).
        config: all settings at once; `settings` are single fields of `PruneConfig` (``epochs=30, lr=1e-3``).

    Raises:
        UnsupportedModelError: no known family, or no prunable block.
        ArtifactError: the model could not be saved afterwards (not created by timm).
        RunError: `out` holds another run.
        pydantic.ValidationError: a setting is unknown or out of range.
    """
    given = {"num_pruned": num_pruned, "max_latency": max_latency, **settings}
    given = {key: value for key, value in given.items() if value is not None}
    config = PruneConfig.model_validate({**(config.model_dump(exclude_none=True) if config else {}), **given})
    out = out or default_folder(model, config)
    run = Run(model, train, val, out, config, test=test, model_args=model_args, show_progress=show_progress)
    train_supernet(run)
    search = search_subnet(run)
    subnet = train_subnet(run)
    merge_subnet(run)
    summary = json.loads((run.folder / SUMMARY).read_text(encoding="utf-8"))
    return PruneResult(run.folder, subnet, search, summary, run)
