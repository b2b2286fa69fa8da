"""What pictures go through before a model sees them, in timm's terms, as its ``pretrained_cfg`` has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from updp_rt.artifacts.errors import ArtifactError, first_error

PerChannel = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1, max_length=16)]
PerChannelPositive = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1, max_length=16)
]


Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=100)]
NotNegative = Annotated[float, Field(ge=0, le=100)]


class Preprocessing(BaseModel):
    """Resizing, cropping and normalising of pictures for evaluation, as ``timm.data.create_transform`` takes them.

    `mean` and `std` have one value per channel, for pixels between 0 and 1. `crop_pct` is the share of a resized
    picture's edge that the crop keeps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: PerChannel
    std: PerChannelPositive
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    crop_pct: Annotated[float, Field(gt=0, le=2)]
    crop_mode: Literal["center", "squash", "border"]

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:.4g}" for value in dict.fromkeys(values)) for values in (self.mean, self.std))
        return f"{self.interpolation}, crop_pct {self.crop_pct:g} ({self.crop_mode}), mean {mean}, std {std}"


class Augmentation(BaseModel):
    """Random changes of training pictures, under the names and with the defaults of ``timm.data.create_transform``.

    `scale` is the share of a picture's area that a crop takes, `ratio` the range of its aspect; `hflip`, `vflip` and
    `re_prob` (random erasing) are probabilities; `color_jitter` is of brightness, contrast and saturation, and perhaps
    hue. `no_aug` drops all of it: training pictures go through evaluation's transforms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    no_aug: bool = False
    scale: tuple[Area, Area] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    hflip: Share = 0.5
    vflip: Share = 0.0
    color_jitter: Annotated[tuple[NotNegative, ...], Field(min_length=3, max_length=4)] = (0.4, 0.4, 0.4)
    auto_augment: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] | None = None
    re_prob: Share = 0.0

    @field_validator("scale", "ratio")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the smaller of the two numbers comes first")
        return value

    def __str__(self) -> str:
        if self.no_aug:
            return "no augmentation"
        parts = [f"crops of {self.scale[0]:g} to {self.scale[1]:g} of the area, hflip {self.hflip:g}"]
        parts += [f"vflip {self.vflip:g}"] if self.vflip else []
        parts += [f"color_jitter {','.join(f'{x:g}' for x in self.color_jitter)}"] if any(self.color_jitter) else []
        parts += [f"auto_augment {self.auto_augment}"] if self.auto_augment else []
        parts += [f"re_prob {self.re_prob:g}"] if self.re_prob else []
        return ", ".join(parts)


def model_preprocessing(model: nn.Module | None, channels: int) -> Preprocessing | None:
    """What `model` says about its pictures, for images of `channels`; None if it says nothing for so many channels.

    Without a model, timm's defaults. A model of grey pictures whose configuration is for colour takes the mean of the
    three channels' values.

    Raises:
        ArtifactError: its configuration holds something that pictures cannot go through.
    """
    from timm.data import resolve_data_config

    while model is not None and not hasattr(model, "pretrained_cfg"):  # DataParallel and the like
        model = getattr(model, "module", None)
    config = resolve_data_config({}, pretrained_cfg=getattr(model, "pretrained_cfg", None) or {"crop_pct": None})
    values = {key: config[key] for key in Preprocessing.model_fields}
    for key in ("mean", "std"):
        if channels == 1 and len(values[key]) == 3:
            values[key] = (sum(values[key]) / 3,)
        if len(values[key]) == 1:  # for all channels, as timm takes it
            values[key] = tuple(values[key]) * channels
        if len(values[key]) != channels:
            return None
    try:
        return Preprocessing.model_validate(values)
    except ValidationError as error:
        raise ArtifactError(f"the model's pretrained_cfg: {first_error(error)}; set another value there") from error


def set_preprocessing(model: nn.Module, preprocessing: Preprocessing, input_size: tuple[int, int, int]) -> None:
    """Make ``timm.data.resolve_data_config(model=model)`` say this; what is saved says it too."""
    config: dict[str, Any] = {**(getattr(model, "pretrained_cfg", None) or {}), **preprocessing.model_dump()}
    # timm's figures for tests at another size do not belong to these.
    config |= {"input_size": tuple(input_size), "test_input_size": None, "test_crop_pct": None}
    model.pretrained_cfg = model.default_cfg = config  # type: ignore[assignment]
