"""Small members of the four families, for 32x32 images, that two CPU cores can train.

Each is timm's architecture with its depth, its kinds of blocks and its proportions of widths; it is narrower, and its
stem leaves maps that are worth merging convolutions on. timm's own stems would leave 8x8 at the first block and one
pixel at the last, where a 3x3 kernel multiplies padding alone, or four patches of a whole image.

| name | architecture | blocks | widths | maps | the stem |
|---|---|---|---|---|---|
| small_resnet | resnet18 | 8 | 32 to 256, half | 16, 8, 4, 2 | CIFAR's stem (one 3x3, no pooling) at stride 2 |
| small_mobilenetv2 | mobilenetv2_050 | 17 | 8 to 160, its own | 32, 16, 8, 4, 2 | at stride 1 |
| small_convnext | convnext_atto | 12 | 32 to 256, 0.8 | 16, 8, 4, 2 | patches of 2x2 in the stem, for 4x4 |
| small_vit | deit_tiny | 12 | 96, half, 3 heads | 4x4 tokens | patches of 8x8, for one that fills half the image |

Saved models name timm's architecture, its arguments and the layers that differ, so that loading needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import nn

EDGE = 32


def create_small(name: str, **arguments: Any) -> nn.Module:
    """The small model of a name in `SMALL`; `arguments` (``num_classes``, ``in_chans``, ``img_size``) go to timm."""
    model: Any = SMALL[name](**arguments)
    channels, *_ = model.pretrained_cfg["input_size"]
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "input_size": (channels, EDGE, EDGE)}
    return model


def _resnet(**arguments: Any) -> nn.Module:
    model = timm.create_model("resnet18", channels=(32, 64, 128, 256), **arguments)
    model.conv1 = _like(model.conv1, kernel=3, stride=2)
    model.maxpool = nn.Identity()
    return model


def _mobilenetv2(**arguments: Any) -> nn.Module:
    model = timm.create_model("mobilenetv2_050", **arguments)
    model.conv_stem = _like(model.conv_stem, kernel=3, stride=1)
    return model


def _convnext(**arguments: Any) -> nn.Module:
    model = timm.create_model("convnext_atto", dims=(32, 64, 128, 256), **arguments)
    model.stem[0] = _like(model.stem[0], kernel=2, stride=2)
    return model


def _vit(**arguments: Any) -> nn.Module:
    """Its weights start for a narrow model and few images, by which it learns in about half the steps.

    Linear layers start by their fan (timm's 0.02 suits a width of 768), and positions as 2D sines and cosines, of the
    tokens' size (Beyer et al. 2022, https://arxiv.org/abs/2205.01580).
    """
    arguments = {"img_size": EDGE, "weight_init": "jax", **arguments}
    model = timm.create_model("deit_tiny_patch16_224", patch_size=8, embed_dim=96, num_heads=3, **arguments)
    positions = build_sincos2d_pos_embed(model.patch_embed.grid_size, model.embed_dim)
    with torch.no_grad():
        model.pos_embed[0, model.num_prefix_tokens :] = positions
    return model


def _like(conv: nn.Conv2d, *, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution in the place of another, padded so that the map is the image's edge over the stride."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(conv.in_channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)


SMALL: dict[str, Callable[..., nn.Module]] = {
    "small_resnet": _resnet,
    "small_mobilenetv2": _mobilenetv2,
    "small_convnext": _convnext,
    "small_vit": _vit,
}
