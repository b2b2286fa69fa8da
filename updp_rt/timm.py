"""``import updp_rt.timm`` has timm know saved models: ``timm.create_model("updp_rt", folder="deit_p6")``.

timm's scripts take it as ``--model updp_rt --model-kwargs folder=deit_p6``, and models in the Hub's layout, as
`updp_rt.save_pretrained` writes them, as ``--model local-dir:FOLDER`` and ``hf-hub:USER/NAME``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from timm.models import register_model
from timm.models._features import FeatureGetterNet
from torch import nn

from updp_rt.artifacts import ArtifactError, first_error, load
from updp_rt.artifacts.arguments import traits
from updp_rt.artifacts.describe import skeleton
from updp_rt.artifacts.manifest import Description
from updp_rt.deployment.hub import from_pretrained

# What timm gives every entry besides, and what says where weights are.
_PASSING = {"pretrained_cfg_overlay", "pretrained_model_args"}


def updp_rt(
    pretrained: bool = False,
    *,
    folder: str | Path | None = None,
    description: dict[str, Any] | None = None,
    pretrained_cfg: Any = None,
    cache_dir: str | None = None,
    features_only: bool = False,
    out_indices: int | tuple[int, ...] | None = None,
    num_classes: int | None = None,
    drop_rate: float | None = None,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """A model that `updp_rt.save` wrote to `folder`, with its weights.

    Args:
        pretrained: weights too, for a model in the Hub's layout; a folder's always come with it.
        description: what a ``config.json`` in the Hub's layout says in its place.
        features_only: the maps of its stages, those of `out_indices` (all by default), in the model's place.
        num_classes: of a new classifier, where that is another number than it has.

    Raises:
        ArtifactError: nothing there, damaged, or an option that a saved model cannot follow.
    """
    if (folder is None) == (description is None):
        raise ArtifactError("timm's model updp_rt is a saved one: say which, by folder=FOLDER")
    model: Any = load(folder) if folder is not None else _from_hub(description, pretrained, pretrained_cfg, cache_dir)
    _refuse({name: value for name, value in options.items() if name not in _PASSING}, traits(model))
    if img_size is not None:
        _set_size(model, img_size)
    if drop_rate is not None:
        _set_dropout(model, drop_rate)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    if not features_only:
        return model
    count = len(getattr(model.feature_info, "info", model.feature_info))
    return FeatureGetterNet(model, out_indices=count if out_indices is None else out_indices)


default_cfgs: dict[str, dict[str, Any]] = {"updp_rt": {}}  # timm warns of entries without
register_model(updp_rt)


def _from_hub(description: Any, pretrained: bool, config: Any, cache_dir: str | None) -> nn.Module:
    """What timm has read the ``config.json`` of, its weights too if asked for."""
    if not pretrained:
        try:
            return skeleton(Description.model_validate(description))
        except ValidationError as error:
            raise ArtifactError(f"config.json: not a model's of updp_rt ({first_error(error)})") from error
    config = config if isinstance(config, dict) else vars(config)
    name, _, revision = str(config.get("hf_hub_id") or "").partition("@")
    place = config.get("file") if config.get("source") == "local-dir" else name
    return from_pretrained(place or "", revision=revision or None, cache_dir=cache_dir)


def _refuse(options: dict[str, Any], traits: dict[str, Any]) -> None:
    said = {"in_chans": "takes images of {0} channels, not {1}", "global_pool": "pools by {0!r}, not {1!r}"}
    for name, value in options.items():
        if name not in said:
            raise ArtifactError(f"{name}: a saved model is built as it was saved")
        if traits.get(name) != value:
            raise ArtifactError(f"this model {said[name].format(traits.get(name), value)}")


def _set_dropout(model: Any, rate: float) -> None:
    """Of the classifier, in whichever of timm's places it is held."""
    layers = [getattr(model, "head_drop", None), getattr(getattr(model, "head", None), "drop", None)]
    held = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    for layer in held:
        layer.p = rate
    if hasattr(model, "drop_rate"):
        model.drop_rate = rate
    elif rate and not held:
        raise ArtifactError(f"drop_rate: this {type(model).__name__} has no dropout before its classifier")


def _set_size(model: Any, size: int | tuple[int, int]) -> None:
    edges = (size, size) if isinstance(size, int) else tuple(size)
    if edges == tuple(model.pretrained_cfg["input_size"][1:]):
        return
    if not hasattr(model, "set_input_size"):
        raise ArtifactError(
            f"this {type(model).__name__} cannot be given another image size, and needs none: give it such images"
        )
    model.set_input_size(img_size=edges)
