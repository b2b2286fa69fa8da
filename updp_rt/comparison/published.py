"""Figures that rivals publish, on ImageNet and their own devices: to stand beside measured ones, never among them."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One published row.

    Attributes:
        family: of the network, as `updp_rt.blocks` names families.
        before, after: top-1 in percent; None where the source gives none.
        gain: what it is said to gain: a speed-up with its device, or the GMACs that are left.
        source: where the figures were read.
    """

    method: str
    family: str
    network: str
    before: float | None
    after: float | None
    gain: str
    source: str


_DS, _DP, _LM = "repository's table, the first of three trainings", "repository's README", "repository's README"
_ISO = "figure of Isomorphic Pruning's repository"

PUBLISHED: tuple[Published, ...] = (
    Published("depthshrinker", "mobilenetv2", "MobileNetV2-1.4, A", 75.30, 74.65, "1.80× on a V100", _DS),
    Published("depthshrinker", "mobilenetv2", "MobileNetV2-1.4, C", 75.30, 73.38, "2.16× on a V100", _DS),
    Published("depthshrinker", "mobilenetv2", "MobileNetV2-1.4, E", 75.30, 72.20, "2.50× on a V100", _DS),
    Published("dp", "mobilenetv2", "MobileNetV2-1.0, T0 = 25", 72.89, 72.83, "1.41× on an RTX 2080 Ti, TensorRT", _DP),
    Published("dp", "mobilenetv2", "MobileNetV2-1.0, T0 = 20", 72.89, 71.44, "1.77× on an RTX 2080 Ti, TensorRT", _DP),
    Published("dp", "mobilenetv2", "MobileNetV2-1.4, T0 = 27", 76.28, 74.68, "1.61× on an RTX 2080 Ti, TensorRT", _DP),
    Published("layermerge", "resnet", "ResNet-34, 71%", 74.42, 74.26, "1.36× on an RTX 2080 Ti, torch", _LM),
    Published("layermerge", "resnet", "ResNet-34, 60%", 74.42, 73.46, "1.56× on an RTX 2080 Ti, torch", _LM),
    Published("layermerge", "resnet", "ResNet-34, 50%", 74.42, 72.84, "1.79× on an RTX 2080 Ti, torch", _LM),
    Published("layermerge", "mobilenetv2", "MobileNetV2-1.0, 55%", 72.89, 72.99, "1.63× on an RTX 2080 Ti, torch", _LM),
    Published("layermerge", "mobilenetv2", "MobileNetV2-1.0, 38%", 72.89, 71.74, "2.18× on an RTX 2080 Ti, torch", _LM),
    Published("hetdpt", "vit", "DeiT-B, 5 attentions and 5 GELUs", None, 81.81, "1.58×, as the abstract says", "log"),
    Published("nose", "vit", "DeiT-T, 25% of attentions", 72.2, 72.94, "-", "repository's README"),
    Published("nose", "vit", "DeiT-T, 30% of attentions", 72.2, 71.90, "-", "repository's README"),
    Published("s2vite", "vit", "DeiT-T", None, 70.12, "0.99 GMACs", _ISO),
    Published("wdpruning", "vit", "DeiT-T", None, 70.34, "0.70 GMACs", _ISO),
    Published("wdpruning", "vit", "DeiT-S", None, 78.38, "2.60 GMACs", _ISO),
    Published("xpruner", "vit", "DeiT-T", None, 71.10, "0.60 GMACs", _ISO),
    Published("xpruner", "vit", "DeiT-S", None, 78.93, "2.40 GMACs", _ISO),
    Published("hvt", "vit", "HVT-Ti-1", None, 69.64, "0.64 GMACs", "repository's README"),
    Published("hvt", "vit", "HVT-S-1", None, 78.00, "2.40 GMACs", "repository's README"),
    Published("scop", "resnet", "ResNet-34, A", 73.31, 72.93, "39.1% of MACs gone", "repository's figure"),
    Published("scop", "resnet", "ResNet-34, B", 73.31, 72.62, "44.8% of MACs gone", "repository's figure"),
    Published("torch-pruning", "vit", "distilled DeiT-T, 300 epochs", 74.52, 72.60, "0.62 GMACs", _ISO),
    Published("torch-pruning", "convnext", "from ConvNeXt-B, 300 epochs", None, 82.19, "4.19 GMACs", _ISO),
    Published("updp", "vit", "DeiT-T, P6", None, None, "1.26× on an MI100, batch 128, for 1.9 points", "abstract"),
)


def published_rows(methods: tuple[str, ...], family: str) -> list[Published]:
    """The rows of these methods for networks of a family."""
    return [row for row in PUBLISHED if row.method in methods and row.family == family]
