"""What rules share: timm's convolutions, norms, activations and layer scales read into sites."""

from __future__ import annotations

from typing import Any

from timm import layers
from timm.layers import BatchNormAct2d, DropBlock2d, DropPath, LayerScale, LayerScale2d
from torch import nn

from updp_rt.backends import Geometry
from updp_rt.reparam import MergeError, conv_padding
from updp_rt.runtime.fused import CannotFuseError, Fusion
from updp_rt.runtime.site import Site
from updp_rt.runtime.sources import LayerSource

_ACTIVATIONS: dict[type, str] = {
    nn.Identity: "none",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.GELU: "gelu",
    layers.GELU: "gelu",
    nn.SiLU: "silu",
    layers.Swish: "silu",
}
# Modules that do nothing in eval mode.
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath, DropBlock2d)


def activation(module: nn.Module | None) -> str:
    """The fused activation that `module` is; `CannotFuseError` if it is none of them."""
    if module is None:
        return "none"
    name = _ACTIVATIONS.get(type(module))
    if name is None or getattr(module, "approximate", "none") != "none":
        raise CannotFuseError(f"{module} is not an activation that can be fused")
    return name


def idle(module: nn.Module | None, name: str) -> None:
    """Check that `module` does nothing in eval mode."""
    if module is not None and not isinstance(module, _IDLE):
        raise CannotFuseError(f"{name} ({type(module).__name__}) stands between the operators")


def layer_scale(module: nn.Module) -> tuple[nn.Module, str] | None:
    """A layer scale's module and tensor name; None for an identity."""
    if isinstance(module, nn.Identity):
        return None
    if isinstance(module, LayerScale | LayerScale2d):
        return module, "gamma"
    raise CannotFuseError(f"{type(module).__name__} is no layer scale")


def geometry(conv: nn.Module) -> Geometry:
    """Stride, padding and groups of a plain convolution; `CannotFuseError` for any other."""
    if type(conv) is not nn.Conv2d:
        raise CannotFuseError(f"{type(conv).__name__} computes more than a plain convolution")
    if conv.padding_mode != "zeros" or conv.dilation != (1, 1):
        raise CannotFuseError("only undilated convolutions padded with zeros have fused kernels")
    try:
        padding = conv_padding(conv)
    except MergeError as error:
        raise CannotFuseError(str(error)) from error
    return Geometry((conv.stride[0], conv.stride[1]), padding, conv.groups)


def conv_site(
    fusion: Fusion,
    name: str,
    conv: nn.Module,
    norm: nn.Module | None = None,
    act: nn.Module | None = None,
    scale: tuple[nn.Module, str] | None = None,
) -> Site:
    """Add a conv2d site of a convolution, its BatchNorm (with or without an activation of its own) and activation."""
    found = activation(act)
    if isinstance(norm, nn.Identity):
        norm = None
    if norm is not None:
        if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or norm.running_mean is None:
            raise CannotFuseError(f"{type(norm).__name__} does not fold into a convolution")
        if isinstance(norm, BatchNormAct2d):
            idle(norm.drop, "the norm's drop layer")
            own = activation(norm.act)
            if "none" not in (own, found):
                raise CannotFuseError(f"two activations, {own} and {found}, follow the convolution")
            found = own if found == "none" else found
    shape = geometry(conv)
    assert isinstance(conv, nn.Conv2d)
    fusion.sites[name] = Site("conv2d", LayerSource(conv, norm, scale), found, shape, fusion.policy)
    return fusion.sites[name]


def linear_site(fusion: Fusion, name: str, linear: nn.Module, act: nn.Module | None = None, scale: Any = None) -> Site:
    """Add a linear site of a plain linear layer, the layer scale after it and its activation."""
    if type(linear) is not nn.Linear:
        raise CannotFuseError(f"{type(linear).__name__} computes more than a plain linear layer")
    source = LayerSource(linear, scale=scale)
    fusion.sites[name] = Site("linear", source, activation(act), policy=fusion.policy)
    return fusion.sites[name]
