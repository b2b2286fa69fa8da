"""What transformers' models are in timm's terms: architecture, arguments, and which weights go where.

One function a family. Both libraries have the same layers in the same order; what differs are names, and that timm
stacks a transformer's queries, keys and values in one linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import timm
from torch import nn

from updp_rt._marks import source_type
from updp_rt.conversion.errors import ConversionError

# A module or parameter of timm's, and those of transformers that it holds, stacked along the first axis.
Pair = tuple[str, tuple[str, ...]]

_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
_CONVNEXTS = {(96, 9): "tiny", (96, 27): "small", (128, 27): "base", (192, 27): "large", (256, 27): "xlarge"}
_MOBILENETS = {0.35: "035", 0.5: "050", 0.75: "075", 1.0: "100", 1.4: "140"}
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
_VIT_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}


@dataclass(frozen=True)
class Plan:
    """A transformers model in timm's terms.

    Attributes:
        architecture: timm's name of it.
        arguments: of ``timm.create_model``.
        pairs: which of transformers' modules and parameters timm's hold; between them, these are all that have weights.
        image: ``(channels, height, width)`` of an image that it takes.
        settings: what timm takes no argument for, as ``module.attribute``.
    """

    architecture: str
    arguments: dict[str, Any]
    pairs: tuple[Pair, ...]
    image: tuple[int, int, int]
    settings: dict[str, Any] = field(default_factory=dict)


class _Kind(NamedTuple):
    """A class of transformers: its family, the attribute that the bare model is, and its classifiers."""

    family: Callable[[Any, tuple[Pair, ...]], Plan]
    base: str = ""
    heads: tuple[Pair, ...] = ()


def plan(model: nn.Module) -> Plan:
    """`model`, one of transformers, in timm's terms.

    Raises:
        ConversionError: another class, or an option that timm's model does not have.
    """
    kind = source_type(model)
    known = _KINDS.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    if known is None:
        raise ConversionError(f"this is a {kind.__name__}; of transformers, {', '.join(_KINDS)} can be converted")
    base: Any = getattr(model, known.base) if known.base else model
    told = known.family(base, known.heads)
    arguments = {"num_classes": base.config.num_labels if known.heads else 0, "in_chans": told.image[0]}
    inside = f"{known.base}." if known.base else ""
    pairs = tuple((here, tuple(inside + each for each in there)) for here, there in told.pairs)
    return Plan(told.architecture, arguments | told.arguments, pairs + known.heads, told.image, told.settings)


def _resnet(base: Any, heads: tuple[Pair, ...]) -> Plan:
    config = base.config
    bottleneck = config.layer_type == "bottleneck"
    # With another activation, transformers' blocks have it at their end alone, and a ReLU inside.
    _require("ResNet", config, embedding_size=64, hidden_act="relu", downsample_in_first_stage=False)
    if bottleneck:
        _require("ResNet", config, downsample_in_bottleneck=False)
    depths, expansion, convs = _four_stages("ResNet", config), 4 if bottleneck else 1, 3 if bottleneck else 2
    if any(width % expansion for width in config.hidden_sizes):
        raise ConversionError(f"hidden_sizes={list(config.hidden_sizes)}: timm's bottlenecks are multiples of 4 wide")
    pairs: list[Pair] = [
        ("conv1", ("embedder.embedder.convolution",)),
        ("bn1", ("embedder.embedder.normalization",)),
    ]
    for stage, depth in enumerate(depths):
        for number in range(depth):
            here, there = f"layer{stage + 1}.{number}", f"encoder.stages.{stage}.layers.{number}"
            for conv in range(convs):
                pairs.append((f"{here}.conv{conv + 1}", (f"{there}.layer.{conv}.convolution",)))
                pairs.append((f"{here}.bn{conv + 1}", (f"{there}.layer.{conv}.normalization",)))
            pairs.append((f"{here}.downsample.0", (f"{there}.shortcut.convolution",)))
            pairs.append((f"{here}.downsample.1", (f"{there}.shortcut.normalization",)))
    return Plan(
        _RESNETS.get((bottleneck, depths), "resnet50" if bottleneck else "resnet18"),
        {"layers": depths, "channels": tuple(width // expansion for width in config.hidden_sizes)},
        tuple(pairs),
        (config.num_channels, 43, 70),
    )


def _convnext(base: Any, heads: tuple[Pair, ...]) -> Plan:
    config = base.config
    depths, widths, patch = _four_stages("ConvNeXt", config), tuple(config.hidden_sizes), _edges(config.patch_size)
    if patch != (4, 4):  # timm dilates stages after larger ones, and strides before the first after smaller ones
        raise ConversionError(f"patch_size={config.patch_size}: timm's ConvNeXt is there with 4 alone")
    if not config.layer_scale_init_value > 0:
        raise ConversionError("layer_scale_init_value=0: timm's ConvNeXt has a layer scale in each block")
    pairs: list[Pair] = [
        ("stem.0", ("embeddings.patch_embeddings",)),
        ("stem.1", ("embeddings.layernorm",)),
        ("head.norm", ("layernorm",)),
    ]
    parts = {"conv_dw": "dwconv", "norm": "layernorm", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}
    parts["gamma"] = "layer_scale_parameter"
    for stage, depth in enumerate(depths):
        down = f"encoder.stages.{stage}.downsampling_layer"
        pairs += [(f"stages.{stage}.downsample.{part}", (f"{down}.{part}",)) for part in (0, 1)]
        for number in range(depth):
            block, layer = f"stages.{stage}.blocks.{number}", f"encoder.stages.{stage}.layers.{number}"
            pairs += [(f"{block}.{here}", (f"{layer}.{there}",)) for here, there in parts.items()]
    arguments: dict[str, Any] = {"depths": depths, "dims": widths}
    if config.drop_path_rate:
        arguments["drop_path_rate"] = float(config.drop_path_rate)
    return Plan(
        f"convnext_{_CONVNEXTS.get((widths[0], depths[2]), 'tiny')}",
        arguments | _activation(config, "gelu"),
        tuple(pairs),
        (config.num_channels, 35, 49),
    )


def _mobilenetv2(base: Any, heads: tuple[Pair, ...]) -> Plan:
    config = base.config
    _require("MobileNetV2", config, depth_divisible_by=8, min_depth=8, expand_ratio=6, first_layer_is_expansion=True)
    if config.depth_multiplier not in _MOBILENETS:
        known = ", ".join(map(str, _MOBILENETS))
        raise ConversionError(f"depth_multiplier={config.depth_multiplier}: timm's MobileNetV2 is there with {known}")
    if config.depth_multiplier < 1:
        _require("MobileNetV2", config, finegrained_output=True)
    first, *places = [f"blocks.{s}.{b}" for s, count in enumerate(_MOBILENET_STAGES) for b in range(count)]
    layers = {
        ("conv_stem", "bn1"): "conv_stem.first_conv",
        (f"{first}.conv_dw", f"{first}.bn1"): "conv_stem.conv_3x3",
        (f"{first}.conv_pw", f"{first}.bn2"): "conv_stem.reduce_1x1",
        ("conv_head", "bn2"): "conv_1x1",
    }
    for number, block in enumerate(places):
        layers[f"{block}.conv_pw", f"{block}.bn1"] = f"layer.{number}.expand_1x1"
        layers[f"{block}.conv_dw", f"{block}.bn2"] = f"layer.{number}.conv_3x3"
        layers[f"{block}.conv_pwl", f"{block}.bn3"] = f"layer.{number}.reduce_1x1"
    pairs = [
        pair
        for (conv, norm), there in layers.items()
        for pair in ((conv, (f"{there}.convolution",)), (norm, (f"{there}.normalization",)))
    ]
    arguments: dict[str, Any] = {"pad_type": "same"} if config.tf_padding else {}
    if config.output_stride != 32:
        arguments["output_stride"] = config.output_stride
    if heads and config.classifier_dropout_prob:
        arguments["drop_rate"] = float(config.classifier_dropout_prob)
    return Plan(
        f"mobilenetv2_{_MOBILENETS[config.depth_multiplier]}",
        arguments | _activation(config, "relu6"),
        tuple(pairs),
        (config.num_channels, 43, 70),
    )


def _vit(base: Any, heads: tuple[Pair, ...]) -> Plan:
    size, patch = _VIT_SIZES.get(base.config.hidden_size, "base"), _edges(base.config.patch_size)[0]
    name = f"vit_{size}_patch{patch}_224"
    return _transformer(base, name if timm.is_model(name) else "vit_base_patch16_224", {}, [])


def _deit(base: Any, heads: tuple[Pair, ...]) -> Plan:
    """With a distillation token, which has a classifier of its own, or stands beside the others as a register does."""
    size = _VIT_SIZES.get(base.config.hidden_size, "base").replace("large", "base")
    if len(heads) == 2:
        name, arguments, token = f"deit_{size}_distilled_patch16_224", {}, "dist_token"
    else:
        name, arguments, token = f"deit_{size}_patch16_224", {"reg_tokens": 1}, "reg_token"
    return _transformer(base, name, arguments, [(token, ("embeddings.distillation_token",))])


def _transformer(base: Any, name: str, arguments: dict[str, Any], tokens: list[Pair]) -> Plan:
    config = base.config
    if base.pooler is not None:
        raise ConversionError("timm's ViT has no pooler after the class token: add_pooling_layer=False leaves it out")
    height, width = _edges(config.image_size)
    pairs: list[Pair] = [
        *(("cls_token", ("embeddings.cls_token",)), ("pos_embed", ("embeddings.position_embeddings",))),
        *(("patch_embed.proj", ("embeddings.patch_embeddings.projection",)), ("norm", ("layernorm",))),
        *tokens,
    ]
    layers, parts = _transformer_layers(base)
    for number in range(config.num_hidden_layers):
        pairs += [
            (f"blocks.{number}.{here}", tuple(f"{layers}.{number}.{each}" for each in there.split()))
            for here, there in parts.items()
        ]
    ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * ratio) < config.intermediate_size:  # what timm makes of it
        ratio = math.nextafter(ratio, math.inf)
    arguments = arguments | {
        "img_size": height if height == width else (height, width),
        "patch_size": config.patch_size if isinstance(config.patch_size, int) else tuple(config.patch_size),
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": ratio,
        "qkv_bias": bool(config.qkv_bias),
    }
    settings = {}
    if config.attention_probs_dropout_prob:
        arguments["attn_drop_rate"] = float(config.attention_probs_dropout_prob)
    if config.hidden_dropout_prob:
        arguments["pos_drop_rate"] = arguments["proj_drop_rate"] = float(config.hidden_dropout_prob)
        # timm has one more dropout, between the two linear layers.
        settings = {f"blocks.{number}.mlp.drop1.p": 0.0 for number in range(config.num_hidden_layers)}
    image = (config.num_channels, height, width)
    return Plan(name, arguments | _activation(config, "gelu"), tuple(pairs), image, settings)


def _transformer_layers(base: Any) -> tuple[str, dict[str, str]]:
    """Where a ViT's layers are, and timm's names of their parts; transformers 5 renamed them."""
    norms = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    if hasattr(base, "layers"):
        return "layers", norms | {
            "attn.qkv": "attention.q_proj attention.k_proj attention.v_proj",
            "attn.proj": "attention.o_proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
    return "encoder.layer", norms | {
        "attn.qkv": "attention.attention.query attention.attention.key attention.attention.value",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }


_KINDS = {
    "ResNetForImageClassification": _Kind(_resnet, "resnet", (("fc", ("classifier.1",)),)),
    "ResNetModel": _Kind(_resnet),
    "ConvNextForImageClassification": _Kind(_convnext, "convnext", (("head.fc", ("classifier",)),)),
    "ConvNextModel": _Kind(_convnext),
    "MobileNetV2ForImageClassification": _Kind(_mobilenetv2, "mobilenet_v2", (("classifier", ("classifier",)),)),
    "MobileNetV2Model": _Kind(_mobilenetv2),
    "ViTForImageClassification": _Kind(_vit, "vit", (("head", ("classifier",)),)),
    "ViTModel": _Kind(_vit),
    "DeiTForImageClassification": _Kind(_deit, "deit", (("head", ("classifier",)),)),
    "DeiTForImageClassificationWithTeacher": _Kind(
        _deit, "deit", (("head", ("cls_classifier",)), ("head_dist", ("distillation_classifier",)))
    ),
    "DeiTModel": _Kind(_deit),
}


def _require(what: str, config: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        found = getattr(config, name, value)
        if found != value:
            raise ConversionError(f"{name}={found}: timm's {what} is there with {value} alone")


def _four_stages(what: str, config: Any) -> tuple[int, ...]:
    if len(config.depths) != 4:
        raise ConversionError(f"depths={list(config.depths)}: timm's {what} has four stages")
    return tuple(config.depths)


def _activation(config: Any, usual: str) -> dict[str, str]:
    name = _ACTIVATIONS.get(config.hidden_act) if isinstance(config.hidden_act, str) else None
    if name is None:
        known = ", ".join(_ACTIVATIONS)
        raise ConversionError(f"hidden_act={config.hidden_act!r}: only {known} are the same in timm")
    return {} if name == usual else {"act_layer": name}


def _edges(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
