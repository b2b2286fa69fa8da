"""A run of torch modules read as affine convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from updp_rt.reparam.affine import AffineConv
from updp_rt.reparam.compose import compose_chain
from updp_rt.reparam.errors import MergeError
from updp_rt.reparam.fold import batchnorm_affine, diagonal, is_batchnorm, scale_input, scale_output

NamedLayer = tuple[str, nn.Module | Tensor | AffineConv]


def fold_chain(layers: Iterable[NamedLayer]) -> list[AffineConv]:
    """Read a linear chain into affine convolutions, with every per-channel map folded into a neighbour.

    Args:
        layers: ``(name, layer)`` in order; a layer is a Conv2d, a Linear, a BatchNorm, an Identity, a Dropout (no
            effect in eval mode), a Sequential of those, a LayerScale, the ``[C]`` tensor of such scales itself, or an
            `AffineConv` already read.

    Returns:
        One `AffineConv` for each convolution or linear layer; paddings stay where they are. A chain of per-channel
        maps alone is one depthwise 1x1.

    Raises:
        MergeError: a layer is not linear, or a shift stands before a padded convolution.
    """
    chain: list[AffineConv] = []
    before: tuple[Tensor, Tensor | None] | None = None  # per-channel map still waiting for its convolution
    for name, layer in _flatten(layers):
        channelwise = _channelwise(name, layer)
        if channelwise is not None:
            scale, shift = channelwise
            if chain:
                chain[-1] = scale_output(chain[-1], scale, shift)
            elif before is not None:
                merged = scale_output(diagonal(*before), scale, shift)
                before = merged.weight.flatten(), merged.bias
            else:
                before = scale, shift
            continue
        conv = _read(name, layer)
        if before is not None:
            conv, before = scale_input(conv, *before), None
        chain.append(conv)
    if before is not None:
        chain.append(diagonal(*before))
    return chain


def merge_chain(layers: Iterable[NamedLayer]) -> AffineConv:
    """A whole linear chain as one convolution: `fold_chain`, then `compose_chain`."""
    return compose_chain(fold_chain(layers))


def _flatten(layers: Iterable[NamedLayer]) -> Iterator[NamedLayer]:
    for name, layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _flatten((f"{name}.{key}", child) for key, child in layer.named_children())
        elif not isinstance(layer, nn.Identity | nn.Dropout):
            yield name, layer


def _channelwise(name: str, layer: nn.Module | Tensor | AffineConv) -> tuple[Tensor, Tensor | None] | None:
    if isinstance(layer, Tensor):
        return layer, None
    if isinstance(layer, _BatchNorm):
        if not is_batchnorm(layer):
            raise MergeError(name, f"the activation {layer.act} inside it is not linear")
        return batchnorm_affine(layer, name)
    if type(layer).__name__.startswith("LayerScale"):
        gamma = getattr(layer, "gamma", None)
        assert isinstance(gamma, Tensor)
        return gamma, None
    return None


def _read(name: str, layer: nn.Module | Tensor | AffineConv) -> AffineConv:
    if isinstance(layer, AffineConv):
        return layer
    if isinstance(layer, nn.Conv2d):
        return AffineConv.from_conv(layer, name)
    if isinstance(layer, nn.Linear):
        return AffineConv.from_linear(layer, name)
    raise MergeError(name, f"{type(layer).__name__} is not a convolution, linear layer or BatchNorm")
