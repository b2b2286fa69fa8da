"""How a model can be built again: its timm architecture and arguments, its merged blocks, its pruned channels."""

from __future__ import annotations

import hashlib
from typing import Any

import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import source_type, to_source
from updp_rt.artifacts.errors import ArtifactError, first_error
from updp_rt.artifacts.manifest import Description, MergedForm, ModelArgs
from updp_rt.artifacts.narrow import check_fits, describe_channels, prune_again
from updp_rt.artifacts.preprocessing import model_preprocessing, set_preprocessing
from updp_rt.blocks import make_progressive, merge_model, merge_origins, model_input_size, set_lambda
from updp_rt.blocks.inspect import architecture
from updp_rt.reparam import MergeError


def describe_model(model: nn.Module, model_args: dict[str, Any] | None = None) -> Description:
    """What it takes to build `model` again, checked by building it and comparing both on a random image.

    Classes, channels, image and patch size and pooling are read off the model; `model_args` holds any other arguments
    that it was created with.

    Raises:
        ArtifactError: the model was not created by timm, or what was built computes something else.
    """
    name = architecture(model)
    if not timm.is_model(name):
        raise ArtifactError(
            f"this {source_type(model).__name__} does not name a timm architecture: create it with timm.create_model"
        )
    traits, defaults = _traits(model), _traits(_build_meta(name, ModelArgs()))
    read_off = {key: value for key, value in traits.items() if defaults.get(key) != value}
    try:
        args = ModelArgs.model_validate({**read_off, **(model_args or {})})
    except ValidationError as error:
        raise ArtifactError(f"model_args cannot be saved: {first_error(error)}") from error
    blocks = {key: MergedForm(body=origin.body, form=origin.form) for key, origin in merge_origins(model).items()}
    size = model_input_size(model)
    preprocessing = model_preprocessing(model, size[0])
    description = Description(
        architecture=name, model_args=args, input_size=size, blocks=blocks, preprocessing=preprocessing
    )
    whole = _with_merged_blocks(_build_meta(name, args), description)
    description.channels = describe_channels(model, whole)
    _check_rebuilds(model, description)
    return description


def build(name: str, args: ModelArgs) -> nn.Module:
    """The architecture with fresh weights, in eval mode. Raises `ArtifactError` if timm refuses."""
    if not timm.is_model(name):
        raise ArtifactError(f"timm {timm.__version__} does not know the architecture {name[:80]!r}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **args.given())
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArtifactError(f"timm cannot build {name} with {args.given()}: {error}") from error
    return model.eval()


def skeleton(description: Description) -> nn.Module:
    """The described model with fresh weights, in eval mode; raises `ArtifactError` where it cannot be built."""
    model = _with_merged_blocks(build(description.architecture, description.model_args), description)
    prune_again(model, description.channels)
    if description.preprocessing is not None:
        set_preprocessing(model, description.preprocessing, description.input_size)
    return model


def rebuild(description: Description, state: dict[str, Tensor]) -> nn.Module:
    """The described model with the weights `state`, in eval mode; raises `ArtifactError` where they don't fit."""
    # Shapes first, without memory: a manifest that asks for more than the file holds must not allocate it.
    shapes = _with_merged_blocks(_build_meta(description.architecture, description.model_args), description)
    if description.channels is not None:
        check_fits(prune_again(shapes, description.channels), description.input_size)
    expected = {key: tuple(value.shape) for key, value in shapes.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if expected != found:
        odd = next(key for key in [*expected, *found] if expected.get(key) != found.get(key))
        raise ArtifactError(
            f"the weights are not those of this architecture: {odd} is {found.get(odd, 'missing')}, "
            f"{expected.get(odd, 'nothing')} was expected"
        )
    model = skeleton(description)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights on the CPU, contiguous, as safetensors wants them."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def fingerprint(model: nn.Module) -> str:
    """sha256 over the names, shapes and bytes of a model's weights."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _build_meta(name: str, args: ModelArgs) -> nn.Module:
    with torch.device("meta"):
        return build(name, args)


def _with_merged_blocks(model: nn.Module, description: Description) -> nn.Module:
    """The model with merged blocks in their places, by merging whatever weights it has."""
    if not description.blocks:
        return model
    try:
        subnet = make_progressive(model, {name: block.body for name, block in description.blocks.items()})
        set_lambda(subnet, 1.0)
        return merge_model(subnet, {name: block.form for name, block in description.blocks.items()})
    except (MergeError, ValueError) as error:
        raise ArtifactError(f"its blocks cannot be merged in these forms: {error}") from error


@torch.no_grad()
def _check_rebuilds(model: nn.Module, description: Description) -> None:
    advice = "pass the arguments it was created with as model_args"
    here = to_source(copy_model(model)).cpu().eval()
    try:
        again = rebuild(description, cpu_state(model))
    except ArtifactError as error:
        raise ArtifactError(f"this model could not be loaded again: {error}; {advice}") from error
    dtype = next(here.parameters()).dtype
    image = torch.randn(1, *description.input_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    if not torch.equal(here(image), again(image)):
        raise ArtifactError(
            f"timm's {description.architecture} with {description.model_args.given()} computes something else: {advice}"
        )


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
