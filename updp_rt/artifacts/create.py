"""timm models by name, with weights of timm's or from a checkpoint."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from torch import nn

from updp_rt.artifacts.checkpoint import load_checkpoint
from updp_rt.artifacts.errors import ArtifactError
from updp_rt.blocks.inspect import model_input_size


def create_model(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> nn.Module:
    """A timm model for images of `size`, ``(height, width)``, with pretrained weights or those of a checkpoint.

    Raises:
        ArtifactError: timm knows no such model (the nearest names are said) or cannot create it so, or the checkpoint
            does not fit.
    """
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        near = get_close_matches(name, timm.list_models(), n=5)
        advice = f"perhaps one of: {', '.join(near)}" if near else "timm.list_models() names all"
        raise ArtifactError(f"timm knows no model {name!r}; {advice}")
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        if size is not None and hasattr(model, "patch_embed") and model_input_size(model)[1:] != size:
            # A patch grid is made for one size; timm resamples pretrained position embeddings to it.
            model = timm.create_model(name, pretrained=pretrained, img_size=size, **arguments)
    except (AssertionError, RuntimeError, OSError) as error:
        raise ArtifactError(f"cannot create {name}: {error}") from error
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model
