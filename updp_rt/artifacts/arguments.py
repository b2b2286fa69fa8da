"""What timm was given when a model was created, as a manifest can carry it."""

from __future__ import annotations

from typing import Any

from timm.layers import get_act_layer, get_norm_layer
from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet
from timm.models._features_fx import FeatureGraphNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from updp_rt.blocks import TokenPool, model_input_size

_FEATURES: dict[type, str] = {
    FeatureDictNet: "dict",
    FeatureGetterNet: "getter",
    FeatureGraphNet: "fx",
    FeatureHookNet: "hook",
    FeatureListNet: "list",
}


# What `updp_rt.timm` takes, and the architecture that it builds does not.
_OURS = ("folder", "description")


def recorded_arguments(model: nn.Module) -> dict[str, Any]:
    """What ``timm.create_model`` was given, by timm's own record; classes that timm knows by a name as that name."""
    record = getattr(model, "_model_args", {})
    return {name: with_names(value) for name, value in record.items() if name not in _OURS}


def with_names(value: Any) -> Any:
    """An argument as JSON has it, as far as it can be: lists for tuples, and timm's names for layers' classes."""
    if isinstance(value, tuple | list):
        return [with_names(each) for each in value]
    if isinstance(value, dict):
        return {str(key): with_names(each) for key, each in value.items()}
    if isinstance(value, type):
        if value in _FEATURES:
            return _FEATURES[value]
        name = value.__name__.lower()
        for known in (get_act_layer, get_norm_layer):
            try:
                if known(name) is value:
                    return name
            except KeyError:
                continue
    return value


def with_layers(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with classes for timm's names of them, for the models that take no name."""
    find = {"act_layer": get_act_layer, "norm_layer": get_norm_layer}
    return {key: find[key](value) if key in find else value for key, value in arguments.items()}


def traits(model: nn.Module) -> dict[str, Any]:
    """Arguments that can be read off a model as it now is, whatever it was created with."""
    channels, height, width = model_input_size(model)
    found: dict[str, Any] = {"num_classes": _count_classes(model), "in_chans": channels}
    patch_embed = getattr(model, "patch_embed", None)
    if getattr(patch_embed, "img_size", None) is not None:
        found["img_size"] = [height, width]
    patch = getattr(patch_embed, "patch_size", None)
    if isinstance(patch, tuple | list):
        found["patch_size"] = patch[0]
    pool = getattr(model, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    if isinstance(pool, str):
        found["global_pool"] = pool
    if isinstance(model, VisionTransformer):
        found["class_token"] = model.cls_token is not None
        if any(isinstance(block, TokenPool) for block in model.blocks):
            found["depth"] = len(model.blocks)  # with the pools among them
    return found


def _count_classes(model: Any) -> int | None:
    """Of the classifier itself where that is one layer: its model may still tell of the one before."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(head, nn.Linear):
        return head.out_features
    return head.out_channels if isinstance(head, nn.Conv2d) else getattr(model, "num_classes", None)
