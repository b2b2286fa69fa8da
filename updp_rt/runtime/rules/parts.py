"""What rules share: timm's convolutions, norms, activations and layer scales read into sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm import layers
from timm.layers import BatchNormAct2d, DropBlock2d, DropPath, LayerScale, LayerScale2d
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.ops import CONV2D, DEPTHWISE_CONV2D, LINEAR, MLP, NORM_LINEAR
from updp_rt.ops.checks import Pair
from updp_rt.reparam import MergeError, conv_padding
from updp_rt.runtime.fused import CannotFuseError, Fusion
from updp_rt.runtime.site import Site, Slot

_ACTIVATIONS: dict[type, str] = {
    nn.Identity: "none",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.GELU: "gelu",
    layers.GELU: "gelu",
    nn.SiLU: "silu",
    layers.Swish: "silu",
}
# Modules that do nothing in eval mode; what is derived from them, as quantizers and MC dropout are, does something.
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath, DropBlock2d)


def activation(module: nn.Module | None) -> str:
    """The fused activation that `module` is; `CannotFuseError` for any other."""
    if module is None:
        return "none"
    name = _ACTIVATIONS.get(type(module))
    if name is None or getattr(module, "approximate", "none") != "none":
        raise CannotFuseError(f"{module} is not an activation that can be fused")
    return name


def idle(module: nn.Module | None, name: str) -> None:
    """Check that `module` does nothing in eval mode."""
    if module is not None and type(module) not in _IDLE:
        raise CannotFuseError(f"{name} ({type(module).__name__}) stands between the operators")


def layer_scale(module: nn.Module) -> Slot | None:
    """Where a layer scale's tensor is held; None for an identity."""
    if type(module) is nn.Identity:
        return None
    if type(module) in (LayerScale, LayerScale2d):
        return module, "gamma"
    raise CannotFuseError(f"{type(module).__name__} is no layer scale")


def geometry(conv: nn.Module) -> tuple[Pair, Pair, int]:
    """Stride, padding and groups of a plain convolution; `CannotFuseError` for any other."""
    if source_type(conv) is not nn.Conv2d:
        raise CannotFuseError(f"{type(conv).__name__} computes more than a plain convolution")
    assert isinstance(conv, nn.Conv2d)
    if conv.padding_mode != "zeros" or conv.dilation not in (1, (1, 1)):
        raise CannotFuseError("only undilated convolutions padded with zeros have fused kernels")
    if isinstance(conv.padding, str) and conv.weight.shape[2:] != conv.kernel_size:
        raise CannotFuseError(f"padding={conv.padding!r} is that of another kernel size")
    try:
        return pair(conv.stride), conv_padding(conv), conv.groups
    except MergeError as error:
        raise CannotFuseError(str(error)) from error


def held(module: nn.Module, **names: str) -> dict[str, Slot]:
    """Tensors of `module` by argument, those too that may come to it: a bias."""
    return {name: (module, own) for name, own in names.items()}


def conv_site(
    fusion: Fusion,
    name: str,
    conv: nn.Module,
    norm: nn.Module | None = None,
    act: nn.Module | None = None,
    scale: Slot | None = None,
) -> str:
    """Add the site of a convolution, its BatchNorm (with or without an activation of its own) and activation.

    It is a ``depthwise_conv2d`` where each channel has a kernel of its own, else a ``conv2d``.

    Returns:
        The activation.
    """
    read = read_conv(conv, norm, act)
    tensors = read.tensors | ({} if scale is None else {"scale": scale})
    stride, padding, groups = read.geometry
    about: dict[str, Any] = {"act": read.act, "stride": stride, "padding": padding, "eps": read.eps}
    if is_depthwise(conv):
        fusion.site(name, DEPTHWISE_CONV2D, tensors, **about)
    else:
        fusion.site(name, CONV2D, tensors, **about, groups=groups)
    return read.act


@dataclass(frozen=True)
class Convolution:
    """A convolution and what follows it: tensors, its norm's too, by argument of `conv2d`; stride, padding, groups."""

    tensors: dict[str, Slot]
    act: str
    geometry: tuple[Pair, Pair, int]
    eps: float


def read_conv(conv: nn.Module, norm: nn.Module | None = None, act: nn.Module | None = None) -> Convolution:
    """A convolution, its BatchNorm and activation; `CannotFuseError` where they are others."""
    found = activation(act)
    tensors, where = held(conv, weight="weight", bias="bias"), geometry(conv)
    eps: Any = 0.0
    if type(norm) is nn.Identity:
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
        batches = "num_batches_tracked"
        tensors |= held(norm, mean="running_mean", var="running_var", gamma="weight", beta="bias", batches=batches)
        eps = norm.eps
    return Convolution(tensors, found, where, eps)


def pool_sizes(pool: Any) -> tuple[Pair, Pair, Pair]:
    """Window, stride and padding of plain max pooling; `CannotFuseError` for any other."""
    if source_type(pool) is not nn.MaxPool2d or pair(pool.dilation) != (1, 1) or pool.ceil_mode or pool.return_indices:
        raise CannotFuseError("only undilated windows within the image, without their indices, have fused kernels")
    return pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)


def is_depthwise(conv: nn.Module) -> bool:
    """Whether a plain convolution has one kernel for each channel, and several channels."""
    assert isinstance(conv, nn.Conv2d)
    return conv.groups > 1 and conv.weight.shape[:2] == (conv.groups, 1)


def linear_site(
    fusion: Fusion, name: str, linear: nn.Module, act: nn.Module | None = None, scale: Slot | None = None
) -> Site:
    """Add a linear site of a plain linear layer, the layer scale after it and its activation."""
    check_linear(linear)
    tensors = held(linear, weight="weight", bias="bias") | ({} if scale is None else {"scale": scale})
    return fusion.site(name, LINEAR, tensors, act=activation(act), eps=0.0)


def linear_after_norm(fusion: Fusion, name: str, norm: str, linear: nn.Module, act: nn.Module | None = None) -> None:
    """Add a site of a plain linear layer, on a GPU with the layer norm before it, the owner's child `norm`.

    The norm is then among the fusion's `children`; else it stays as it is, and the site is of the linear layer alone.
    """
    check_linear(linear)
    before: Any = fusion.owner.get_submodule(norm)
    if not on_gpu(linear) or why_no_layer_norm(before) is not None or isinstance(before, layers.LayerNorm2d):
        linear_site(fusion, name, linear, act)
        return
    norm_linear_site(fusion, name, fusion.absorb(norm), linear, act)


def norm_linear_site(fusion: Fusion, name: str, norm: Any, linear: nn.Module, act: nn.Module | None = None) -> None:
    """Add a site of a layer norm and the plain linear layer behind it."""
    tensors = held(linear, weight="weight", bias="bias") | held(norm, gamma="weight", beta="bias")
    fusion.site(name, NORM_LINEAR, tensors, act=activation(act), eps=norm.eps)


def mlp_sites(fusion: Fusion, norm: str, mlp: Any, scale: Slot | None) -> None:
    """Add the sites of timm's MLP, the owner's ``mlp``, with the layer scale after it.

    On a GPU there is one, ``mlp``, with the layer norm before it, the owner's child `norm`, which is then among the
    fusion's `children`; its separate operators are a candidate of it. Elsewhere there are ``mlp.fc1`` and ``mlp.fc2``.
    """
    before: Any = fusion.owner.get_submodule(norm)
    if not on_gpu(mlp):
        linear_site(fusion, "mlp.fc1", mlp.fc1, act=mlp.act)
        linear_site(fusion, "mlp.fc2", mlp.fc2, scale=scale)
        return
    for layer in (mlp.fc1, mlp.fc2):
        check_linear(layer)
    tensors = held(mlp.fc1, w1="weight", b1="bias") | held(mlp.fc2, w2="weight", b2="bias")
    tensors |= {} if scale is None else {"scale": scale}
    eps = 0.0
    if why_no_layer_norm(before) is None and not isinstance(before, layers.LayerNorm2d):
        fusion.absorb(norm)
        tensors, eps = tensors | held(before, gamma="weight", beta="bias"), before.eps
    fusion.site("mlp", MLP, tensors, act=activation(mlp.act), eps=eps)


def run_mlp(fusion: Fusion, norm: str, x: Tensor, residual: Tensor) -> Tensor:
    """Run the sites of `mlp_sites`, and the norm before them where they have it not."""
    sites = fusion.sites
    if norm not in fusion.children:
        x = getattr(fusion.owner, norm)(x)
    if "mlp" in sites:
        return sites["mlp"](x, residual)
    x = sites["mlp.fc1"](x)  # which lets go of what it was given
    return sites["mlp.fc2"](x, residual)


def why_no_layer_norm(norm: Any) -> str | None:
    """Why `norm` is no plain layer norm over one dimension, the last one or channels; None: it is one."""
    if source_type(norm) not in (nn.LayerNorm, layers.LayerNorm, layers.LayerNorm2d):
        return f"{type(norm).__name__} is no plain layer norm"
    if getattr(norm, "_fast_norm", False):
        return "timm's fast norm computes in other dtypes"
    return None if len(norm.normalized_shape) == 1 else "only norms over one dimension have fused kernels"


def on_gpu(module: nn.Module) -> bool:
    """Whether `module` is on a GPU, or on a CPU where one is emulated; elsewhere torch's own operators do as well."""
    from updp_rt.kernels.hip.device import emulation

    first = next(module.parameters(), None)
    return emulation() is not None or (first is not None and first.device.type == "cuda")


def check_linear(layer: nn.Module) -> None:
    """Raise `CannotFuseError` unless `layer` is a plain linear layer."""
    if source_type(layer) is not nn.Linear:
        raise CannotFuseError(f"{type(layer).__name__} computes more than a plain linear layer")


def pair(value: Any) -> Pair:
    """A size in pixels, vertical and horizontal, of one that may be given for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
