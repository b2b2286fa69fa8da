"""The files a report reads, as far as it reads them: unknown fields are ignored, wrong ones make a file damaged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from updp_rt.artifacts.manifest import Description, MergedForm

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Identity(Description):
    """``run.json``: which run it is, and what model it started from."""

    model_config = ConfigDict(extra="ignore")

    config: dict[str, Any]

    @property
    def max_latency(self) -> float | None:
        """The run's goal, as a share of the baseline's latency, if it had such a goal."""
        share, speedup = self.config.get("max_latency"), self.config.get("target_speedup")
        goal = 1 / speedup if isinstance(speedup, float) and speedup > 1 else share
        return goal if isinstance(goal, float) and 0 < goal < 1 else None


class Figures(BaseModel):
    """One model's row of ``summary.json``."""

    accuracy: Share
    depth: Count
    params: Count
    macs: Count
    latency_ms: Milliseconds
    val_accuracy: Share | None = None


class Prediction(BaseModel):
    """What the search predicted and what was measured, on the same kernels; `off`: by how much it takes longer."""

    kernels: str
    predicted_speedup: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    measured_speedup: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    off: Annotated[float, Field(allow_inf_nan=False)]


class Summary(BaseModel):
    """``summary.json``: what a finished run found."""

    blocks: dict[str, MergedForm]
    baseline: Figures
    subnet: Figures
    merged: Figures
    prediction: Prediction | None = None
    predictions_that_differ: Count
    evaluated_on: str
    images: Count
    batch_size: Count
    device: str
    versions: dict[str, str]


class Epoch(BaseModel):
    """One epoch of ``history.csv`` or ``log.txt``; `val_accuracy` and `lam` are of the subnet alone."""

    epoch: int
    step: Annotated[int, Field(gt=0)] | None = None  # of the optimizer, at its end
    loss: float
    lam: float | None = Field(None, alias="lambda")
    val_accuracy: float | None = None


class LambdaPoint(BaseModel):
    """One row of ``lambda.csv``: λ in a step of the subnet's training, counted from 0."""

    step: Count
    lam: Share = Field(alias="lambda")


class Times(BaseModel):
    """Milliseconds of one thing as the baseline has it and as the merged model has it, plainly and on fused kernels."""

    model_config = ConfigDict(extra="forbid")

    baseline: Milliseconds
    merged: Milliseconds
    accelerated: Milliseconds


class EngineTimes(BaseModel):
    """Milliseconds of whole models on another engine."""

    model_config = ConfigDict(extra="forbid")

    engine: str
    baseline: Milliseconds
    merged: Milliseconds


class ModelTimes(Times):
    """Of whole models; `baseline_accelerated` is the unpruned model on fused kernels."""

    baseline_accelerated: Milliseconds
    other: EngineTimes | None = None


class KernelTime(BaseModel):
    """One operator of one module of the merged model on fused kernels.

    Attributes:
        others: milliseconds of the candidates that were not chosen.
        roofline: share of what the device could do at most; None where the kernel was not timed.
    """

    model_config = ConfigDict(extra="forbid")

    module: str
    source: str
    operator: str
    problem: str
    kernel: str
    why: str
    ms: Milliseconds | None
    others: dict[str, float]
    roofline: float | None
    flops: Count
    bytes: Count


class Roof(BaseModel):
    """What the device could do at most: FLOP/s in the profile's dtype, bytes/s, and where the figures are from."""

    model_config = ConfigDict(extra="forbid")

    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    bandwidth: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: str


class Profile(BaseModel):
    """``profile.json``: what `profile` measured on one machine."""

    format: Literal["updp_rt profile"] = "updp_rt profile"
    schema_version: Literal[1] = 1
    created: str
    weights: str  # sha256 of the weights' file, as the manifest has it
    input: tuple[int, int, int, int]
    dtype: str
    device: str
    environment: dict[str, str]
    roof: Roof
    model: ModelTimes
    blocks: dict[str, Times]
    kernels: list[KernelTime]
    unfused: list[str]
