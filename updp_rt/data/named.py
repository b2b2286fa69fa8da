"""Images by the text that a certificate keeps of them, so that they can be had again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.artifacts.preprocessing import Preprocessing
from updp_rt.data.loading import first_images, load_splits, make_loader

RANDOM = "random normal"
_VALIDATION = ", validation"  # and perhaps, apart by a comma, what they go through
_ANY_CLASS = 1_000_000  # labels are not looked at


def name_images(data: str, transforms: Mapping[str, Any] | None = None, class_map: Path | None = None) -> str:
    """The first validation images of `data`, with these options of `load_splits`, as text."""
    options = {**(transforms or {}), **({"class_map": str(class_map)} if class_map else {})}
    return f"{data}{_VALIDATION}{f', {json.dumps(options)}' if options else ''}"


def named_images(
    name: str,
    shape: tuple[int, int, int, int],
    *,
    seed: int = 0,
    preprocessing: nn.Module | Preprocessing | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Tensor:
    """The images of a name, float32 ``[N, C, H, W]`` of `shape`: of a data set, or `RANDOM` by the seed.

    Args:
        preprocessing: see `load_splits`.
        tell: takes lines about what pictures go through.

    Raises:
        ValueError: as `load_splits`; the data set has fewer images.
    """
    data, separator, options = name.rpartition(_VALIDATION)
    if not separator:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    count, *size = shape
    given = json.loads(options.removeprefix(", ") or "{}")
    class_map = given.pop("class_map", None)
    splits = load_splits(
        data,
        (size[0], size[1], size[2]),
        num_classes=_ANY_CLASS if data.startswith("wds/") else None,
        preprocessing=preprocessing,
        transforms=given,
        class_map=Path(class_map) if class_map else None,
    )
    images = first_images(make_loader(splits.val, count, training=False), count)
    if len(images) < count:
        raise ValueError(f"{data!r} has {len(images)} validation images: give --batch {len(images)} or less")
    for line in splits.describe(training=False):
        tell(line)
    return images
