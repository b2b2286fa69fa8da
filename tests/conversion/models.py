"""Small models of transformers, bare and with classifiers, whose weights, norms and tokens hide nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.blocks.randomize import randomize

_RESNET = {"hidden_sizes": [8, 16, 24, 32], "depths": [2, 1, 1, 2], "layer_type": "basic"}
_CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_MOBILENET = {"depth_multiplier": 0.35}
_VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100}
_VIT |= {"image_size": 32, "patch_size": 8}

# Classes with the options of their configurations.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("ResNetForImageClassification", _RESNET),
    "resnet-bottleneck": (
        "ResNetForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1], "num_channels": 4},
    ),
    "resnet-bare": ("ResNetModel", _RESNET),
    "convnext": ("ConvNextForImageClassification", _CONVNEXT | {"drop_path_rate": 0.1}),
    "convnext-bare": (
        "ConvNextModel",
        _CONVNEXT | {"hidden_act": "gelu_pytorch_tanh", "num_channels": 1, "layer_norm_eps": 1e-3},
    ),
    "mobilenet": ("MobileNetV2ForImageClassification", _MOBILENET),
    "mobilenet-dilated": ("MobileNetV2ForImageClassification", _MOBILENET | {"output_stride": 16, "tf_padding": False}),
    "mobilenet-bare": ("MobileNetV2Model", _MOBILENET | {"layer_norm_eps": 0.1}),
    "vit": ("ViTForImageClassification", _VIT),
    "vit-wide": (
        "ViTForImageClassification",
        _VIT | {"image_size": [32, 48], "qkv_bias": False, "layer_norm_eps": 1e-3, "hidden_dropout_prob": 0.1},
    ),
    "vit-bare": ("ViTModel", _VIT),
    "deit": ("DeiTForImageClassification", _VIT | {"attention_probs_dropout_prob": 0.1}),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", _VIT),
    "deit-bare": ("DeiTModel", _VIT),
}


def make(name: str, **changes: Any) -> Any:
    """In float64 and eval mode, for 7 classes whose names are the letters from a."""
    import transformers

    kind, options = MODELS[name]
    family = next(part for part in ("ForImage", "Model") if part in kind)
    config: Any = getattr(transformers, kind.partition(family)[0] + "Config")
    torch.manual_seed(0)
    bare = {"add_pooling_layer": False} if kind in ("ViTModel", "DeiTModel") else {}
    labels = {"id2label": dict(enumerate("abcdefg")), "label2id": {label: i for i, label in enumerate("abcdefg")}}
    return shake(getattr(transformers, kind)(config(**options | labels | changes), **bare).double().eval())


@torch.no_grad()
def shake(model: nn.Module) -> nn.Module:
    randomize(model, seed=1)
    for name, parameter in model.named_parameters():
        if parameter.dim() in (2, 4):
            nn.init.kaiming_normal_(parameter)
        elif parameter.dim() == 3 or "layer_scale" in name:  # tokens and their positions
            parameter.normal_()
    return model


def images(model: Any, count: int = 2) -> list[Tensor]:
    """Of the sizes that it takes: one for a ViT, else two, whose edges are no multiples of anything."""
    config = model.config
    sizes = [(33, 48), (38, 45)]
    if "embeddings.position_embeddings" in dict(model.base_model.named_parameters()):
        size = config.image_size
        sizes = [(size, size) if isinstance(size, int) else tuple(size)]
    elif config.model_type == "convnext":
        sizes = [(33, 64), (38, 51)]
    return [torch.randn(count, config.num_channels, *size, dtype=torch.float64) for size in sizes]


@torch.no_grad()
def results(model: Any, x: Tensor) -> Tensor:
    """What timm's models give: logits, or pooled features."""
    output = model(pixel_values=x)
    if hasattr(output, "logits"):
        return output.logits
    pooled = output.pooler_output
    return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
