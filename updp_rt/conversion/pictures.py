"""Image processors of transformers in timm's terms."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import ValidationError

from updp_rt.artifacts import first_error
from updp_rt.artifacts.preprocessing import Preprocessing
from updp_rt.conversion.errors import ConversionError

# As Pillow numbers them, which configurations hold.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_WARPS_FROM = 384  # ConvNeXt's processor crops smaller images, and squeezes these


def read_processor(processor: Any, channels: int) -> tuple[Preprocessing, tuple[int, int]]:
    """What `processor` does with pictures, and ``(height, width)`` of the images that come out, which have `channels`.

    Interpolation is another library's, so pixels may differ by what that rounds, and what is cropped may lie one pixel
    beside where an odd number of them is left out.

    Raises:
        ConversionError: it does something that timm's transforms do not.
    """
    if not _of(processor, "do_resize", True):
        raise ConversionError("this image_processor leaves pictures as large as they are; timm resizes them")
    if not _of(processor, "do_rescale", True) or not math.isclose(_of(processor, "rescale_factor", 1 / 255), 1 / 255):
        raise ConversionError("this image_processor does not bring pixels between 0 and 1, which timm's transforms do")
    resized, crop, mode = _sizes(processor)
    mean, std = _of(processor, "image_mean", 0.0), _of(processor, "image_std", 1.0)
    if not _of(processor, "do_normalize", True):
        mean, std = 0.0, 1.0
    resample = _of(processor, "resample", 2)
    resample = getattr(resample, "value", resample)
    try:
        found = Preprocessing(
            mean=_each(mean, channels),
            std=_each(std, channels),
            interpolation=_INTERPOLATIONS.get(resample, resample),
            crop_pct=_share(crop, resized),
            crop_mode=mode,
        )
    except ValidationError as error:
        raise ConversionError(f"the image_processor's {first_error(error)}") from error
    return found, crop


def _sizes(processor: Any) -> tuple[tuple[int, int], tuple[int, int], Literal["center", "squash"]]:
    """Height and width after resizing (of the shorter edge, both), then after the crop, and timm's name of the two."""
    size = {key: value for key, value in dict(_of(processor, "size", {})).items() if value is not None}
    crop_pct = _of(processor, "crop_pct", None)
    crops = bool(_of(processor, "do_center_crop", False))
    crop = dict(_of(processor, "crop_size", {})) if crops else {}
    cropped: tuple[int, int] = (crop.get("height") or 0, crop.get("width") or 0)
    mode: Literal["center", "squash"] = "center"
    if size.keys() == {"height", "width"}:
        resized, mode = (size["height"], size["width"]), "squash"
        cropped = cropped if crops else resized
    elif size.keys() == {"shortest_edge"} and crop_pct is not None:
        edge = size["shortest_edge"]
        resized, cropped = (int(edge / crop_pct), int(edge / crop_pct)), (edge, edge)
        if edge >= _WARPS_FROM:
            resized, mode = cropped, "squash"
    elif size.keys() == {"shortest_edge"} and crops:
        resized = (size["shortest_edge"], size["shortest_edge"])
    else:
        raise ConversionError(f"this image_processor's size is {size}: pictures do not come out of one size")
    if not 0 < cropped[0] <= resized[0] or cropped[0] * resized[1] != cropped[1] * resized[0]:
        raise ConversionError(f"this image_processor crops {cropped} of {resized}: timm crops the same share of both")
    return resized, cropped, mode


def _share(crop: tuple[int, int], resized: tuple[int, int]) -> float:
    """What timm divides an edge by, and rounds down, to come to the size that is cropped."""
    share = crop[0] / resized[0]
    while any(math.floor(edge / share) < whole for edge, whole in zip(crop, resized, strict=True)):
        share = math.nextafter(share, 0.0)
    return share


def _each(value: Any, channels: int) -> tuple[float, ...]:
    values = (float(value),) * channels if isinstance(value, int | float) else tuple(map(float, value))
    if len(values) != channels:
        raise ConversionError(f"the image_processor is for images of {len(values)} channels, the model for {channels}")
    return values


def _of(processor: Any, name: str, usual: Any) -> Any:
    found = getattr(processor, name, None)
    return usual if found is None else found
