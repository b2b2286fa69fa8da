"""Convolutions whose BatchNorm and activation stand beside them in a model, applied by the model's own forward."""

from __future__ import annotations

from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

# Model -> chains of child names: the first runs as one operator with the others, which then pass their input on.
CHAINS: dict[type[nn.Module], tuple[tuple[str, ...], ...]] = {
    ResNet: (("conv1", "bn1", "act1"),),
    EfficientNet: (("conv_stem", "bn1"), ("conv_head", "bn2")),
}
