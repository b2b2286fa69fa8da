"""Which transforms pictures go through: the model's own, fitted to small pictures, unless told otherwise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from torch import nn

from updp_rt.artifacts import first_error
from updp_rt.artifacts.preprocessing import Augmentation, Preprocessing, model_preprocessing
from updp_rt.data.pictures import check_channels

# Pictures no larger than what the model sees lose something by every crop.
_SMALL = {"crop_pct": 1.0, "scale": (0.8, 1.0), "color_jitter": (0.0, 0.0, 0.0)}
OPTIONS = (*Preprocessing.model_fields, *Augmentation.model_fields)


def choose_transforms(
    input_size: tuple[int, int, int],
    sizes: Sequence[tuple[int, int]],
    own: nn.Module | Preprocessing | None,
    given: Mapping[str, Any],
) -> tuple[Preprocessing, Augmentation]:
    """What evaluation and training do to pictures of these ``(width, height)``.

    `given` (`OPTIONS`) comes first; then `own`, if it is what a manifest records; then what suits small pictures; then
    `own`, if it is a model; then timm's defaults.

    Raises:
        ValueError: an option that does not exist or a value out of range, by name; `mean` or `std` for another number
            of channels; images with neither 1 nor 3 channels.
    """
    channels, height, width = input_size
    check_channels(channels)
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ValueError(f"unknown transform option {unknown[0]}; choose among {', '.join(OPTIONS)}")
    values = {key: _repeat(key, value, channels) for key, value in given.items()}
    small = _SMALL if sum(w <= width and h <= height for w, h in sizes) > len(sizes) / 2 else {}
    if isinstance(own, Preprocessing):
        values = {**small, **own.model_dump(), **values}
    else:
        found = model_preprocessing(own, channels) or model_preprocessing(None, channels)
        assert found is not None
        values = {**found.model_dump(), **small, **values}
    try:
        return (
            Preprocessing.model_validate({key: values[key] for key in Preprocessing.model_fields}),
            Augmentation.model_validate({key: values[key] for key in Augmentation.model_fields if key in values}),
        )
    except ValidationError as error:
        raise ValueError(f"the transforms of pictures: {first_error(error)}") from error


def enlargement(input_size: tuple[int, int, int], sizes: Sequence[tuple[int, int]]) -> float:
    """How many times larger the model's image is than most pictures, along the edge where the factor is largest."""
    _, height, width = input_size
    return statistics.median(max(height / h, width / w) for w, h in sizes) if sizes else 1.0


def make_transform(
    input_size: tuple[int, int, int], preprocessing: Preprocessing, augmentation: Augmentation | None = None
) -> Any:
    """timm's transform of a picture: for training with an augmentation, otherwise for evaluation."""
    from timm.data import create_transform

    settings = preprocessing.model_dump()
    if augmentation is None or augmentation.no_aug:
        return create_transform(input_size, is_training=False, **settings)
    settings |= augmentation.model_dump(exclude={"no_aug"})
    if not any(augmentation.color_jitter):
        settings["color_jitter"] = None
    try:
        return create_transform(input_size, is_training=True, **settings)
    except (AssertionError, KeyError, ValueError) as error:  # timm's code has a language of its own for these
        raise ValueError(
            f"the transforms of pictures: auto_augment {augmentation.auto_augment!r} is none of timm's ({error}); try "
            "rand-m9-mstd0.5, original or 3a"
        ) from error


def _repeat(key: str, value: Any, channels: int) -> Any:
    """One number for all channels, as timm takes it for `mean`, `std` and `color_jitter`."""
    if key not in ("mean", "std", "color_jitter"):
        return value
    values = (value,) if isinstance(value, int | float) else tuple(value)
    wanted = 3 if key == "color_jitter" else channels
    values *= wanted if len(values) == 1 else 1
    if key != "color_jitter" and len(values) != channels:
        raise ValueError(f"{key} has {len(values)} values, but images have {channels} channels: give 1 or {channels}")
    return values
