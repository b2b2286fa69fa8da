"""What is compared: the settings that all methods share, and the jobs that come of them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from updp_rt.comparison.width import WIDTHS, check_width
from updp_rt.methods.dp import Programmed
from updp_rt.pruning.config import GOALS, PruneConfig
from updp_rt.pruning.method import find_method

BASELINE = "baseline"


class CompareConfig(BaseModel):
    """Everything that all methods share; `settings` are those of `PruneConfig`.

    A method may have settings of its own behind its name: ``updp:direct=true``; and its goal,
    ``updp:target_speedup=1.5``, for which it is asked once a seed.
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
    """One method with one goal under one seed: a number of blocks, a share of the parameters, or 0: its own."""

    method: str
    goal: float
    seed: int

    @property
    def name(self) -> str:
        """Without the settings behind it."""
        return self.method.partition(":")[0]

    @property
    def label(self) -> str:
        """The method and its goal, as pictures, tables and logs call them."""
        if not self.goal:
            return self.method
        return f"{self.method} {100 * self.goal:g}%" if self.goal < 1 else f"{self.method} {self.goal:g}"

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
    seeds, methods = range(config.seeds), config.methods
    return [Job(method, goal, seed) for seed in seeds for method in methods for goal in goals_of(config, method)]


def goals_of(config: CompareConfig, method: str) -> tuple[float, ...]:
    """What a method is asked for; raises `ValueError` where that is nothing."""
    if set(_own(method)) & set(GOALS):
        return (0,)
    width = method.partition(":")[0] in WIDTHS
    goals: tuple[float, ...] = config.amounts if width else config.num_pruned
    if not goals:
        what = "amounts (--amounts), shares of parameters" if width else "num_pruned (--num-pruned), blocks"
        raise ValueError(f"{method} needs {what} to remove")
    return goals


def prune_config(config: CompareConfig, job: Job, epoch_steps: int) -> PruneConfig:
    """The settings of a job of depth: the shared budget as its method spends it.

    A step of what UPDP chooses by passes a model ``2 + random_subnets`` times. A method whose steps take fewer passes
    has more epochs of them, so that choosing costs all the same; one that trains nothing to choose by trains the pruned
    model for longer instead, and so does UPDP with what its supernet does not take: where steps are few, all of it. The
    tables of `dp` and `layermerge` take UPDP's passes as they are. A way back counts as two passes forward.

    Args:
        epoch_steps: steps of an epoch.
    """
    own, plain = _own(job.method), _plain_config(config, job)
    method, passes = find_method(job.name), _passes(config)
    step = method.passes(plain)
    if method.searches:
        spared = "supernet_epochs" not in own and method.spares_supernet(plain, epoch_steps)
        supernet = 0 if spared else plain.supernet_epochs
        epochs = plain.epochs
        if "epochs" not in own:
            taught = "distill" in own and plain.distill > 0  # the baseline runs beside the subnet, forward alone
            epochs = max(1, round((epochs + passes - supernet * step) * (3 / 4 if taught else 1)))
        return plain.model_copy(update={"supernet_epochs": supernet, "epochs": epochs})
    if step:
        return plain.model_copy(update={"supernet_epochs": round(passes / step)})
    if isinstance(method, Programmed) or not method.trains:
        return plain
    return plain.model_copy(update={"epochs": plain.epochs + passes})


def epoch_steps(config: CompareConfig, images: int | None) -> int:
    """Steps of an epoch on so many images; of a stream whose length is not known more than any number."""
    return sys.maxsize if images is None else images // _plain_config(config, Job("updp", 1, 0)).batch_size


def width_epochs(config: CompareConfig) -> int:
    """Epochs that a narrowed model is trained for: all of the budget, since nothing is trained to choose by."""
    return _plain_config(config, Job("updp", 1, 0)).epochs + _passes(config)


def check_jobs(config: CompareConfig, model: nn.Module) -> None:
    """Raise `ValueError` where a method cannot prune `model` as asked, before anything is trained."""
    largest = {"seeds": 1, "num_pruned": config.num_pruned and (max(config.num_pruned),)}
    for job in plan_jobs(config.model_copy(update=largest)):
        if job.is_width:
            if job.method != job.name:
                raise ValueError(f"{job.method}: methods of width take no settings of their own")
            check_width(job.name)
        else:
            find_method(job.name).check(model, prune_config(config, job, 1))


def _plain_config(config: CompareConfig, job: Job) -> PruneConfig:
    goal = {"num_pruned": int(job.goal)} if job.goal else {}
    given = {**config.settings, **goal, **_own(job.method), "method": job.name, "seed": job.seed}
    return PruneConfig.model_validate(given)


def _own(method: str) -> dict[str, str]:
    """The settings behind a method's name."""
    own: dict[str, str] = {}
    for setting in method.split(":")[1:]:
        name, equals, value = setting.partition("=")
        if not equals or name not in PruneConfig.model_fields:
            raise ValueError(f"{method}: {setting!r} is no setting of pruning; write NAME:SETTING=VALUE")
        own[name] = value
    return own


def _passes(config: CompareConfig) -> int:
    """Epochs of passes that UPDP would train its supernet for: what choosing may cost each method."""
    plain = _plain_config(config, Job("updp", 1, 0))
    return plain.supernet_epochs * (2 + plain.random_subnets)
