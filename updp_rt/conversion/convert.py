"""Models of transformers as timm's with the same weights, and back; both compared in float64 before they are given."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import source_type, to_source
from updp_rt.artifacts.preprocessing import model_preprocessing, set_preprocessing
from updp_rt.artifacts.structure import put_settings
from updp_rt.blocks import merge_origins, model_input_size
from updp_rt.conversion.errors import ConversionError
from updp_rt.conversion.pictures import read_processor
from updp_rt.conversion.plans import Plan, plan

# Relative, in float64: rounding of deep models is below, a norm's other eps above.
_EQUAL = 1e-9
_SERVE = "updp_rt.as_transformers serves it as it is"


@torch.inference_mode(False)  # whoever calls, the weights are ordinary ones
def from_transformers(model: nn.Module, image_processor: Any) -> nn.Module:
    """A transformers model as timm's: the same weights, layers and results, to be pruned, saved and accelerated.

    What can be converted: ResNet, ConvNeXt, MobileNetV2, ViT and DeiT, to classify images (``ForImageClassification``,
    DeiT's ``WithTeacher`` too) or bare; a bare model becomes one without classifier, which gives the pooled features
    ``[N, C]``. Weights are copied, in the same dtype and on the same device; norms keep their eps. BatchNorm's
    momentum, which only training uses, is timm's: transformers' MobileNetV2 has 0.997, with which running statistics
    are those of the last batch. Names of classes are kept as ``pretrained_cfg["label_names"]``.

    Args:
        model: left untouched.
        image_processor: what its pictures go through, as ``AutoImageProcessor`` gives it; kept in timm's terms with
            the model. None keeps what timm says for the architecture, which may be other means than the model's.

    Returns:
        The timm model, in the mode that `model` is in.

    Raises:
        ConversionError: another model, an option that timm's does not have, a part that was exchanged, or pictures
            that timm's transforms cannot prepare so. Both models have been run on an image, in float64: where their
            results differ, this is raised too.
    """
    planned = plan(model)
    parameter = next(model.parameters())
    try:
        made: nn.Module = timm.create_model(planned.architecture, **planned.arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConversionError(f"timm builds no such {planned.architecture}: {error}") from error
    put_settings(made, planned.settings)
    made.to(device=parameter.device, dtype=parameter.dtype)
    for here, there in _matched(planned, model, made, "another layer than its configuration says"):
        here.copy_(torch.cat(there) if len(there) > 1 else there[0])
    _copy_eps(planned, model, made)
    _keep_labels(made, model.config)
    _set_pictures(made, planned, image_processor)
    made.train(model.training)
    _check_same(model, made, planned)
    return made


@torch.inference_mode(False)
def to_transformers(model: nn.Module, like: nn.Module) -> nn.Module:
    """A model of transformers' own class with the weights of `model`, which `from_transformers` made and you trained.

    Args:
        model: of timm; with its blocks and channels as they were. A merged or narrow model is no architecture of
            transformers any more: `as_transformers` serves it.
        like: the model that was converted, or one of its class and configuration; it is copied.

    Returns:
        The copy, in the dtype, on the device and in the mode of `model`.

    Raises:
        ConversionError: `like` cannot be converted, or `model` is not of its architecture.
    """
    planned, kind = plan(like), source_type(like).__name__
    if merged := list(merge_origins(model)):
        blocks = f"{', '.join(merged[:3])}{' and others' if len(merged) > 3 else ''}"
        raise ConversionError(f"{blocks} of this model are merged, which no {kind} of transformers can be: {_SERVE}")
    parameter = next(model.parameters())
    made = copy_model(like).to(device=parameter.device, dtype=parameter.dtype)
    for here, there in _matched(planned, made, model, _SERVE):
        parts = here.split([len(each) for each in there]) if len(there) > 1 else [here]
        for each, part in zip(there, parts, strict=True):
            each.copy_(part)
    made.train(model.training)
    _check_same(made, model, planned)
    return made


def _matched(planned: Plan, theirs: nn.Module, ours: nn.Module, hint: str) -> list[tuple[Tensor, list[Tensor]]]:
    """Each of timm's tensors with those of transformers that it holds; without gradients.

    Raises:
        ConversionError: one of them is not in the other model, or not of that shape; `hint` is what to know or do.
    """
    there, here = ({name: each.detach() for name, each in model.state_dict().items()} for model in (theirs, ours))
    sources = {
        name: [each + name[len(start) :] for each in starts]
        for start, starts in planned.pairs
        for name in here
        if name == start or name.startswith(f"{start}.")
    }
    what = f"{source_type(theirs).__name__} of transformers and timm's {planned.architecture} differ"
    odd = sorted(there.keys() ^ {each for names in sources.values() for each in names})
    odd += sorted(here.keys() - sources.keys())
    if odd:
        raise ConversionError(f"{what} in {odd[0]}, which one of them has not: {hint}")
    found = []
    for name, names in sources.items():
        held = [there[each] for each in names]
        shape = [sum(len(each) for each in held), *held[0].shape[1:]] if len(held) > 1 else list(held[0].shape)
        if list(here[name].shape) != shape:
            raise ConversionError(f"{what} in {name}, {list(here[name].shape)}, where {names[0]} makes {shape}: {hint}")
        found.append((here[name], held))
    return found


def _copy_eps(planned: Plan, theirs: nn.Module, ours: nn.Module) -> None:
    sources, made = dict(theirs.named_modules()), dict(ours.named_modules())
    for here, there in planned.pairs:
        if hasattr(made.get(here), "eps"):
            made[here].eps = sources[there[0]].eps


def _set_pictures(model: nn.Module, planned: Plan, image_processor: Any) -> None:
    channels, *takes = planned.image
    preprocessing, size = model_preprocessing(model, channels), model_input_size(model)[1:]
    if image_processor is not None:
        preprocessing, size = read_processor(image_processor, channels)
        if getattr(model, "patch_embed", None) is not None and size != tuple(takes):
            raise ConversionError(f"the image_processor gives images of {size}, and the model takes {tuple(takes)}")
    if preprocessing is not None:
        set_preprocessing(model, preprocessing, (channels, *size))


def _keep_labels(model: Any, config: Any) -> None:
    names = [config.id2label[number] for number in sorted(config.id2label)]
    if model.num_classes and names != [f"LABEL_{number}" for number in range(len(names))]:
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "label_names": names}


@torch.no_grad()
def _check_same(theirs: nn.Module, ours: nn.Module, planned: Plan) -> None:
    """Run copies of both on an image, in float64 on the CPU."""
    copies: list[Any] = [to_source(copy_model(model)).cpu().double().eval() for model in (theirs, ours)]
    first, second = copies
    if getattr(first, "_supports_sdpa", False):
        first.set_attn_implementation("sdpa")  # which keeps float64; `eager` takes the softmax in float32
    image = torch.randn(1, *planned.image, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = first(pixel_values=image, return_dict=True)
    if hasattr(output, "logits"):
        wanted = output.logits
    elif output.pooler_output is not None:
        wanted = output.pooler_output.flatten(1)
    else:
        wanted = output.last_hidden_state[:, 0]
    error = float((second(image) - wanted).abs().max() / wanted.abs().max())
    if not error <= _EQUAL:
        raise ConversionError(
            f"{source_type(theirs).__name__} and timm's {planned.architecture} with the same weights differ by "
            f"{error:.1e} of the largest result: a layer or setting was exchanged, or weights are not finite"
        )
