"""Certificates of models by their folder or timm's name: made, and made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from updp_rt.artifacts import open_model
from updp_rt.data.named import RANDOM, named_images
from updp_rt.runtime.certify import verify
from updp_rt.runtime.lowering import accelerate
from updp_rt.verification import Certificate
from updp_rt.verification.changes import changes_since


def certify(
    model: Path | str,
    source: str = RANDOM,
    *,
    batch: int = 8,
    dtype: torch.dtype = torch.float32,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    engine: str = "modules",
    tell: Callable[[str], object] = lambda line: None,
) -> Certificate:
    """Load, accelerate and verify a model on the images that `source` names.

    Args:
        model: the folder of a saved model, or timm's name of one, whose random weights are drawn by `seed`.
        source: `RANDOM`, or what `name_images` made of a data set.
        engine: what runs the whole model, as of `accelerate`.
        size: ``(height, width)`` of the images; the model's own by default.
        tell: takes lines about what pictures go through.

    Raises:
        ValueError: no such model or data set, too few images, or a model that cannot be accelerated.
    """
    torch.manual_seed(seed)
    opened = open_model(model, size)
    shape = (batch, *opened.input_size)
    how = opened.preprocessing or opened.model
    images = named_images(source, shape, seed=seed, preprocessing=how, tell=tell).to(device, dtype)
    merged = opened.model.to(device, dtype)
    fast = accelerate(merged, images, engine=engine)
    return verify(merged, fast, images, seed=seed, source=source)


def certify_again(old: Certificate, model: Path | str, **options: Any) -> tuple[Certificate, list[str]]:
    """Verify `model` as a certificate says, on the same images; `options` are others of `certify`.

    Returns:
        The certificate of now, and what has changed since the old one.

    Raises:
        ValueError: the certificate is of another model; and as `certify`.
    """
    batch, _, height, width = old.inputs.shape
    how = {"dtype": getattr(torch, old.dtype), "seed": old.inputs.seed, "engine": old.engine, **options}
    new = certify(model, old.inputs.source, batch=batch, size=(height, width), **how)
    if new.model != old.model:
        raise ValueError(
            f"the certificate is of {old.model.architecture} with weights {old.model.weights_sha256[:12]}…, {model} "
            f"holds {new.model.architecture} with {new.model.weights_sha256[:12]}…: verify that model by itself"
        )
    return new, changes_since(old, new)
