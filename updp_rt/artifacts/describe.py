"""How a model can be built again: its timm architecture and the arguments it was created with."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.manifest import ModelArgs
from updp_rt.blocks.inspect import architecture, model_input_size


def describe_model(model: nn.Module) -> tuple[str, ModelArgs]:
    """timm's name of `model` and the arguments that differ from that architecture's defaults.

    Read off the model where timm leaves a trace: classes, channels, image and patch size, pooling. Whether they are
    all is for the caller to check by building and comparing.

    Raises:
        ArtifactError: the model was not created by timm.
    """
    name = architecture(model)
    if not timm.is_model(name):
        raise ArtifactError(
            f"{type(model).__name__} does not say which timm architecture it is; create it with timm.create_model"
        )
    traits, defaults = _traits(model), _traits(build_meta(name, ModelArgs()))
    return name, ModelArgs(**{key: value for key, value in traits.items() if defaults.get(key) != value})


def build_meta(name: str, args: ModelArgs) -> nn.Module:
    """The architecture on the meta device: shapes without memory. Raises `ArtifactError` if timm refuses."""
    with torch.device("meta"):
        return build(name, args)


def build(name: str, args: ModelArgs) -> nn.Module:
    """The architecture with fresh weights, in eval mode. Raises `ArtifactError` if timm refuses."""
    if not timm.is_model(name):
        raise ArtifactError(f"timm {timm.__version__} knows no architecture {name[:80]!r}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **args.given())
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"timm cannot build {name} with {args.given()}: {error}") from error
    return model.eval()


def _traits(model: nn.Module) -> dict[str, Any]:
    channels, height, width = model_input_size(model)
    traits: dict[str, Any] = {"num_classes": getattr(model, "num_classes", None), "in_chans": channels}
    patch_embed = getattr(model, "patch_embed", None)
    if patch_embed is not None:
        traits["img_size"] = (height, width)
        traits["patch_size"] = patch_embed.patch_size[0]
    pool = getattr(model, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    if isinstance(pool, str):
        traits["global_pool"] = pool
    return traits
