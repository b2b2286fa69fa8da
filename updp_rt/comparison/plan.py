"""What is compared: the settings that all methods share, and the jobs that come of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from updp_rt.comparison.width import WIDTHS, check_width
from updp_rt.methods.dp import Programmed
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.method import find_method

BASELINE = "baseline"


class CompareConfig(BaseModel):
    """Everything that all methods share; `settings` are those of `PruneConfig`.

    A method may have settings of its own behind its name: ``updp:direct=true``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] = Field(min_length=1)
    num_pruned: tuple[int, ...] = Field((), description="blocks to prune, for methods of depth")
    amounts: tuple[float, ...] = Field((), description="shares of the parameters to remove, for methods of width")
    seeds: int = Field(3, ge=1)
    settings: dict[str, Any] = {}

    @field_validator("methods", "num_pruned", "amounts")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(map(str, value))}: give each once")
        return value

    @field_validator("amounts")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < amount < 1 for amount in value):
            raise ValueError("a share of the parameters is between 0 and 1")
        return value


@dataclass(frozen=True)
class Job:
    """One method with one goal under one seed; the goal is a number of blocks, or a share of the parameters."""

    method: str
    goal: float
    seed: int

    @property
    def name(self) -> str:
        """Without the settings behind it."""
        return self.method.partition(":")[0]

    @property
    def key(self) -> str:
        """Of its files."""
        return re.sub(r"[^\w.=-]+", "_", f"{self.method}-{self.goal:g}-seed-{self.seed}")

    @property
    def is_width(self) -> bool:
        return self.name in WIDTHS


def plan_jobs(config: CompareConfig) -> list[Job]:
    """All jobs, seed by seed, so that a comparison that is stopped has compared something.

    Raises:
        ValueError: a method without a goal of its kind.
    """
    jobs = []
    for seed in range(config.seeds):
        for method in config.methods:
            width = method.partition(":")[0] in WIDTHS
            goals: tuple[float, ...] = config.amounts if width else config.num_pruned
            if not goals:
                what = "amounts (--amounts), shares of parameters" if width else "num_pruned (--num-pruned), blocks"
                raise ValueError(f"{method} needs {what} to remove")
            jobs += [Job(method, goal, seed) for goal in goals]
    return jobs


def prune_config(config: CompareConfig, job: Job) -> PruneConfig:
    """The settings of a job of depth: the shared budget as its method spends it.

    A step of what UPDP chooses by passes a model ``2 + random_subnets`` times. A method whose steps take fewer passes
    has more epochs of them, so that choosing costs all the same; one that trains nothing to choose by trains the pruned
    model for longer instead. The tables of `dp` and `layermerge` take UPDP's passes as they are.
    """
    plain = _plain_config(config, job)
    method = find_method(job.name)
    passes, step = _passes(plain), method.passes(plain)
    if step:
        return plain.model_copy(update={"supernet_epochs": round(passes / step)})
    if isinstance(method, Programmed) or not method.trains:
        return plain
    return plain.model_copy(update={"epochs": plain.epochs + passes})


def width_epochs(config: CompareConfig) -> int:
    """Epochs that a narrowed model is trained for: all of the budget, since nothing is trained to choose by."""
    plain = _plain_config(config, Job("updp", 1, 0))
    return plain.epochs + _passes(plain)


def check_jobs(config: CompareConfig, model: nn.Module) -> None:
    """Raise `ValueError` where a method cannot prune `model` as asked, before anything is trained."""
    largest = {"seeds": 1, "num_pruned": config.num_pruned and (max(config.num_pruned),)}
    for job in plan_jobs(config.model_copy(update=largest)):
        if job.is_width:
            if job.method != job.name:
                raise ValueError(f"{job.method}: methods of width take no settings of their own")
            check_width(job.name)
        else:
            find_method(job.name).check(model, prune_config(config, job))


def _plain_config(config: CompareConfig, job: Job) -> PruneConfig:
    own: dict[str, str] = {}
    for setting in job.method.split(":")[1:]:
        name, equals, value = setting.partition("=")
        if not equals or name not in PruneConfig.model_fields:
            raise ValueError(f"{job.method}: {setting!r} is no setting of pruning; write NAME:SETTING=VALUE")
        own[name] = value
    given = {**config.settings, **own, "num_pruned": int(job.goal), "method": job.name, "seed": job.seed}
    return PruneConfig.model_validate(given)


def _passes(config: PruneConfig) -> int:
    """Epochs of passes that UPDP trains its supernet for."""
    return config.supernet_epochs * (2 + config.random_subnets)
