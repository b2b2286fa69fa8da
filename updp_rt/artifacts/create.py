"""Models by name: timm's, with its weights or those of a checkpoint, and saved ones by their folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import nn

from updp_rt._names import unknown_model
from updp_rt.artifacts.checkpoint import load_checkpoint
from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.preprocessing import Preprocessing
from updp_rt.artifacts.small import SMALL, create_small
from updp_rt.artifacts.store import load, read_manifest
from updp_rt.blocks.inspect import model_input_size


def create_model(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> nn.Module:
    """A timm model, or one of `small.SMALL`, for images of `size`, ``(height, width)``.

    With fresh, pretrained, or a checkpoint's weights.

    Raises:
        ArtifactError: timm knows no such model (the nearest names are said) or cannot create it so, or the checkpoint
            does not fit.
    """
    small = name in SMALL
    if not small and not timm.is_model(name.split(".", maxsplit=1)[0]):
        raise ArtifactError(unknown_model(name, timm.list_models()))
    asked = {"num_classes": num_classes, "in_chans": in_chans}
    arguments: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if small and pretrained:
        raise ArtifactError(f"{name} has no pretrained weights: train it (updp-rt train {name} --data fashion-mnist)")
    try:
        make = partial(create_small, name) if small else partial(timm.create_model, name, pretrained=pretrained)
        model: nn.Module = make(**arguments)
        if size is not None and hasattr(model, "patch_embed") and model_input_size(model)[1:] != size:
            # A patch grid is made for one size; timm resamples pretrained position embeddings to it.
            model = make(img_size=size, **arguments)
    except (AssertionError, RuntimeError, OSError) as error:
        raise ArtifactError(f"cannot create {name}: {error}") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is not None and patch is not None and any(edge % step for edge, step in zip(size, patch, strict=True)):
        raise ArtifactError(f"{name} takes images whose edges are multiples of {patch[0]}, not {size[0]}x{size[1]}")
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


class Opened(NamedTuple):
    """A model in eval mode, ``(channels, height, width)`` of its images, and what its folder says these go through."""

    model: nn.Module
    input_size: tuple[int, int, int]
    preprocessing: Preprocessing | None


def open_model(model: Path | str, size: tuple[int, int] | None = None) -> Opened:
    """The saved model in a folder (a `Path`), or a timm model by its name, for images of `size`, the own by default.

    Raises:
        ArtifactError: as `load` and `create_model`.
    """
    preprocessing = None
    if isinstance(model, Path):
        opened = load(model)
        manifest = read_manifest(model)
        own, preprocessing = manifest.input_size, manifest.preprocessing
    else:
        opened = create_model(model, size=size).eval()
        own = model_input_size(opened)
    return Opened(opened, (own[0], *(size or own[1:])), preprocessing)
