"""How a model can be built again: timm's architecture and arguments, and what was made of it since."""

from __future__ import annotations

from typing import Any

import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from updp_rt._copies import copy_model
from updp_rt._marks import source_type, to_source
from updp_rt.artifacts.arguments import recorded_arguments, traits, with_layers, with_names
from updp_rt.artifacts.errors import ArtifactError, first_error
from updp_rt.artifacts.manifest import Description, MergedForm, ModelArgs
from updp_rt.artifacts.narrow import check_fits, describe_channels, prune_again
from updp_rt.artifacts.preprocessing import model_preprocessing, set_preprocessing
from updp_rt.artifacts.structure import describe_layers, describe_settings, put_layers, put_settings
from updp_rt.artifacts.weights import cpu_state, tie, tied_weights, with_tied
from updp_rt.blocks import make_progressive, merge_model, merge_origins, model_input_size, set_lambda
from updp_rt.blocks.inspect import architecture
from updp_rt.channels import read_widths, tell_widths
from updp_rt.reparam import MergeError


def describe_model(model: nn.Module, model_args: dict[str, Any] | None = None) -> Description:
    """What it takes to build `model` again, checked by building it and comparing both.

    Arguments are those that timm has on record or that can be read off the model, and `model_args`. Plain torch layers
    that are not as timm builds them are told by their structure, settings that differ by their value.

    Raises:
        ArtifactError: the model was not created by timm, or what is built from all this is another model.
    """
    name = architecture(model)
    wrapped = next((a for a in ("_orig_mod", "module") if isinstance(getattr(model, a, None), nn.Module)), None)
    if wrapped is not None and source_type(model).__module__.startswith(("torch.", "timm.utils.")):
        raise ArtifactError(
            f"this {source_type(model).__name__} is a wrapper: give the model in it, which is its .{wrapped}"
        )
    if not timm.is_model(name):
        raise ArtifactError(
            f"this {source_type(model).__name__} does not name a timm architecture: create it with timm.create_model"
        )
    # Another memory format adds up in another order.
    here = to_source(copy_model(model)).cpu().eval()
    here.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    args, unknown = _find_arguments(here, name, model_args or {})
    size = model_input_size(here)
    description = Description(
        architecture=name,
        model_args=args,
        input_size=size,
        blocks={key: MergedForm(body=origin.body, form=origin.form) for key, origin in merge_origins(here).items()},
        tied=tied_weights(here) or None,
        preprocessing=model_preprocessing(here, size[0]),
    )
    try:
        whole = _with_merged_blocks(_build_meta(name, args), description)
        layers = describe_layers(here, whole)
        with torch.device("meta"):
            put_layers(whole, layers)
        description.channels = describe_channels(here, whole)  # prunes `whole`
        settings = describe_settings(here, whole)
        # Checked as a manifest is that is read.
        description = Description.model_validate(
            {**dict(description), "layers": layers or None, "settings": settings or None}
        )
        _check_rebuilds(here, description)
    except (ArtifactError, ValidationError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        lost = f" ({', '.join(unknown)} cannot be kept as it was given)" if unknown else ""
        raise ArtifactError(
            f"this model could not be loaded again: {reason}{lost}. Pass what else timm.create_model was given as "
            "model_args, or keep its weights alone (torch.save(model.state_dict(), FILE)) and build it in code"
        ) from error
    return description


def _find_arguments(model: nn.Module, name: str, model_args: dict[str, Any]) -> tuple[ModelArgs, list[str]]:
    """Arguments that build `model`, and the names of those on record that a manifest cannot hold."""
    try:
        given = ModelArgs.model_validate(with_names(model_args)).root
    except ValidationError as error:
        raise ArtifactError(f"model_args cannot be saved: {first_error(error)}") from error
    recorded: dict[str, Any] = {}
    unknown = []
    for key, value in recorded_arguments(model).items():
        try:
            recorded |= ModelArgs.model_validate({key: value}).root
        except ValidationError:
            unknown.append(key)
    recorded = {key: value for key, value in recorded.items() if value is not None} | given
    defaults = traits(_build_meta(name, ModelArgs.model_validate(recorded)))
    read_off = {key: value for key, value in traits(model).items() if defaults.get(key) != value}
    return ModelArgs.model_validate(recorded | read_off | given), [key for key in unknown if key not in given]


def build(name: str, args: ModelArgs) -> nn.Module:
    """The architecture with fresh weights, in eval mode. Raises `ArtifactError` if timm refuses."""
    if not timm.is_model(name):
        raise ArtifactError(f"timm {timm.__version__} does not know the architecture {name[:80]!r}")
    given = args.given()
    try:
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **given)
        except TypeError:
            if with_layers(given) == given:
                raise
            model = timm.create_model(name, pretrained=False, **with_layers(given))
    except Exception as error:  # whatever timm's code raises of arguments that it does not take
        raise ArtifactError(f"timm cannot build {name} with {given}: {error}") from error
    return model.eval()


@torch.inference_mode(False)  # whoever calls, the weights are ordinary ones
def skeleton(description: Description, device: str = "cpu") -> nn.Module:
    """The described model with fresh weights, in eval mode; raises `ArtifactError` where it cannot be built."""
    with torch.device(device):
        model = _with_merged_blocks(build(description.architecture, description.model_args), description)
        put_layers(model, description.layers)
    prune_again(model, description.channels)
    put_settings(model, description.settings)
    tie(model, description.tied)
    if description.preprocessing is not None:
        set_preprocessing(model, description.preprocessing, description.input_size)
    return model.eval()


def baseline(description: Description) -> nn.Module:
    """What the described model was before blocks were merged and channels pruned; with fresh weights, in eval mode.

    Raises:
        ArtifactError: it cannot be built, or its channels were pruned and it has layers that are not as timm builds
            them: how large those were is not recorded.
    """
    if description.channels and description.layers:
        raise ArtifactError("how large its own layers were before channels were pruned is not recorded")

    def outside(name: str) -> bool:
        return not any(name.startswith(f"{block}.") for block in description.blocks)

    left = {
        part: {name: value for name, value in (getattr(description, part) or {}).items() if outside(name)}
        for part in ("layers", "settings", "tied")
    }
    return skeleton(description.model_copy(update={**left, "blocks": {}, "channels": None}))


@torch.inference_mode(False)
def rebuild(description: Description, state: dict[str, Tensor]) -> nn.Module:
    """The described model with the weights `state`, in eval mode; raises `ArtifactError` where they don't fit."""
    # Shapes first, without memory: a manifest that asks for more than the file holds must not allocate it.
    with _Unfilled():
        shapes = skeleton(description, "meta")
    widths = None
    if description.channels is not None:
        check_fits(shapes, description.input_size)
        widths = read_widths(shapes, (1, *description.input_size))
    state = with_tied(state, description.tied)
    expected = {key: tuple(value.shape) for key, value in shapes.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if expected != found:
        odd = next(key for key in [*expected, *found] if expected.get(key) != found.get(key))
        raise ArtifactError(
            f"the weights are not those of this architecture: {odd} is {found.get(odd, 'missing')}, "
            f"{expected.get(odd, 'nothing')} was expected"
        )
    with _Unfilled():
        model = skeleton(description)
    model.load_state_dict(state, strict=True, assign=True)
    tie(model, description.tied)
    tell_widths(model, widths)
    return model


def _build_meta(name: str, args: ModelArgs) -> nn.Module:
    with torch.device("meta"), _Unfilled():
        return build(name, args)


class _Unfilled(TorchFunctionMode):
    """Parameters made within it are not initialised, which takes most of the time that a model is built in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in _FILLING and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **kwargs)


_FILLING = {Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_}


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
    state = cpu_state(model)
    for name in description.tied or {}:
        del state[name]
    again = rebuild(description, state)
    left = describe_layers(model, again) or describe_settings(model, again)
    orders = [[name for name, _ in each.named_modules(remove_duplicate=False)] for each in (model, again)]
    built = f"timm's {description.architecture} with {description.model_args.given()}"
    if left or orders[0] != orders[1]:
        raise ArtifactError(f"{built} differs in {next(iter(left), 'the order of its layers')}")
    dtype = next(model.parameters()).dtype
    image = torch.randn(1, *description.input_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    try:
        outputs = [[leaf for leaf in tree_leaves(each(image)) if isinstance(leaf, Tensor)] for each in (model, again)]
    except Exception as error:  # whatever the model's own code raises
        raise ArtifactError(f"it does not run on images of {description.input_size}: {error}") from error
    if not all(_same(ours, theirs) for ours, theirs in zip(*outputs, strict=True)):
        raise ArtifactError(f"{built} computes something else")


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether both hold the same values; a model that gives NaN is saved as it is."""
    return ours.shape == theirs.shape and bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())
