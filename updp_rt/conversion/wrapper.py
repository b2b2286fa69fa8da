"""A timm model, merged, narrow or accelerated, behind the interface of transformers."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from updp_rt.artifacts.describe import describe_model
from updp_rt.conversion.errors import ConversionError
from updp_rt.deployment.hub import timm_config


def as_transformers(model: nn.Module, config: Any) -> nn.Module:
    """`model` in transformers' ``TimmWrapperForImageClassification``, which answers as the model before it did.

    ``wrapped(pixel_values=images, labels=labels).logits``, ``.loss`` and ``.hidden_states`` are there, and what takes
    models of transformers takes it: ``pipeline("image-classification", ...)``, ``Trainer``, ``save_pretrained``. What
    that wrote, and what `updp_rt.save_pretrained` writes, ``AutoModelForImageClassification.from_pretrained`` reads
    once `updp_rt.timm` is imported. A model without classifier comes in ``TimmWrapperModel``: ``.last_hidden_state``
    and ``.pooler_output``.

    Args:
        model: of timm; merged, narrow or accelerated ones too. It is held, not copied.
        config: of the transformers model in whose place it comes, for the names of classes and the kind of loss.

    Raises:
        ConversionError: transformers is not installed, or `config` names another number of classes.
        ArtifactError: the model cannot be built again, so that it could not be saved either.
    """
    transformers = _transformers()
    importlib.import_module("updp_rt.timm")  # registers the architecture that the configuration names
    written = timm_config(model, describe_model(model))
    classes = written["num_classes"]
    kept: dict[str, Any] = {"num_labels": classes}
    if classes:
        written = {
            key: value for key, value in written.items() if not key.startswith("label_")
        }  # the config names them
        if config.num_labels != classes:
            named = f"the config names {config.num_labels}: give its own"
            raise ConversionError(f"the model has {classes} classes, and {named}")
        kept = {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}
    kind = transformers.TimmWrapperForImageClassification if classes else transformers.TimmWrapperModel
    wrapped = kind(transformers.TimmWrapperConfig.from_dict(written, **kept))
    wrapped.timm_model = model
    wrapped.training = model.training  # its parts are in the modes that they were in
    return wrapped


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConversionError("transformers is not installed: pip install 'updp_rt[transformers]'") from error
    return transformers
