"""Settings of a pruning run, and of a baseline's training: validated, serialisable objects."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STAGES = ("supernet", "search", "train", "merge")
Stage = Literal["supernet", "search", "train"]

GOALS = ("num_pruned", "max_latency", "target_speedup", "front")  # of which a run has one
ANY = "any"  # of `body`: the search chooses a body for each block
SAME_RESULTS = frozenset({"workers", "grad_checkpointing"})  # settings that a result does not depend on
_SEARCH = {*GOALS, "search", "trials", "recalibration_batches"}
_TRAIN = {"epochs", "lr", "ramp", "schedule", "direct", "distill"}


_ACCUMULATE = "batches a step of the optimizer, in each process"
_SYNC = "BatchNorm over the images of all processes"
_CHECKPOINTING = "run blocks again in the backward pass: less memory, more time"


def first_stage(setting: str) -> Stage:
    """The first stage whose result depends on a setting, or on anything else that a run is known by."""
    return "search" if setting in _SEARCH else "train" if setting in _TRAIN else "supernet"


class PruneConfig(BaseModel):
    """How a model is pruned. Epochs, rates and sizes are this project's choices.

    Give exactly one goal: `num_pruned`, how many blocks to prune; `max_latency`, the largest latency allowed as a share
    of the baseline's; `target_speedup`, the baseline's latency over the largest allowed; or `front`, which prunes what
    costs no accuracy that the validation images can show, and shows what more would cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_pruned: int | None = Field(None, ge=1, description="blocks to prune")
    max_latency: float | None = Field(None, gt=0, lt=1, description="latency allowed, as a share of the baseline's")
    target_speedup: float | None = Field(None, gt=1, description="baseline's latency over the largest allowed")
    front: bool = Field(False, description="no limit: the front of accuracy against latency")
    method: str = Field("updp", description="updp, or a rival of `updp_rt.methods`")
    body: str = Field(
        "auto",
        description="pruned body if a family has several; auto: the fastest measured; skip: none, blocks are left out "
        "where that can be; affine: one affine map, fitted in closed form; any: the search chooses it, and which "
        "neighbours become one convolution",
    )
    seed: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=1)
    workers: int = Field(0, ge=0, description="processes that load data")

    supernet_epochs: int = Field(
        4,
        ge=0,
        description="by default none where the subnet is trained for so few steps that these are worth more to it",
    )
    supernet_lr: float = Field(5e-4, gt=0)
    random_subnets: int = Field(1, ge=0, description="random subnets per step, beside the largest and the smallest")

    search: Literal["auto", "genetic", "guided", "front", "dp"] = Field(
        "auto", description="guided by single blocks, genetic, dp over tables, or NSGA-II along the front"
    )
    trials: int = Field(24, ge=1, description="candidates the search evaluates")
    recalibration_batches: int = Field(4, ge=1, description="training batches that set BatchNorm statistics")

    epochs: int = Field(10, ge=1, description="epochs of the chosen subnet")
    lr: float = Field(5e-4, gt=0)
    ramp: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the training during which λ rises and the rate is full; by default a third of that where "
        "steps are few",
    )
    schedule: Literal["linear", "cosine"] = "linear"
    direct: bool = Field(False, description="λ = 1 from the start, to compare with")
    distill: float = Field(0.0, ge=0, le=1, description="weight of the baseline's outputs as soft targets")

    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the training during which the rate rises")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    accumulate: int = Field(1, ge=1, description=_ACCUMULATE)
    sync_batch_norm: bool = Field(False, description=_SYNC)
    grad_checkpointing: bool = Field(False, description=_CHECKPOINTING)

    @model_validator(mode="after")
    def _one_goal(self) -> PruneConfig:
        goals = [name for name in GOALS if getattr(self, name)]
        if len(goals) != 1:
            raise ValueError(
                "give exactly one of num_pruned (how many blocks), target_speedup (such as 1.3), max_latency (share of "
                f"baseline's) and front, not {' and '.join(goals) or 'none'}"
            )
        if self.front and self.search in ("genetic", "guided"):
            raise ValueError(f"search={self.search} needs a number of blocks or a latency to keep to: leave it at auto")
        if self.body == ANY and self.num_pruned is not None:
            raise ValueError(
                "body=any weighs accuracy against latency, of which a number of blocks says nothing: give "
                "target_speedup, max_latency or front, or leave body at auto, which takes the fastest"
            )
        return self

    def allowed_ms(self, model_ms: float) -> float | None:
        """The latency allowed, of a baseline that takes `model_ms`; None where that is not the goal."""
        if self.target_speedup is not None:
            return model_ms / self.target_speedup
        return None if self.max_latency is None else model_ms * self.max_latency


class TrainConfig(BaseModel):
    """How a baseline is trained: AdamW, a linear warm-up, half a cosine to zero."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(30, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the training during which the rate rises")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    accumulate: int = Field(1, ge=1, description=_ACCUMULATE)
    sync_batch_norm: bool = Field(False, description=_SYNC)
    grad_checkpointing: bool = Field(False, description=_CHECKPOINTING)
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0, description="processes that load data")
