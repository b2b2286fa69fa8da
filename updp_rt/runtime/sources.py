"""Where a fused operator's weights come from: the source model's own modules, folded in float64 when they change."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.backends import Weights
from updp_rt.reparam import batchnorm_affine

# A tensor by the dictionary of a module that holds it, so that a parameter that is replaced is seen.
Slot = tuple[Any, str]


class Source(ABC):
    """The weights of one fused operator."""

    @abstractmethod
    def slots(self) -> list[Slot]:
        """Every tensor that the weights may depend on."""

    @abstractmethod
    def weights(self) -> Weights:
        """The operator's weights as they are now, in its order."""

    @abstractmethod
    def kernel_shape(self) -> tuple[int, ...]:
        """``(N, K)`` of a linear operator; ``(O, I, kh, kw)`` of a convolution, O being the channels of the result."""


class NoSource(Source):
    """Of an operator without weights."""

    def slots(self) -> list[Slot]:
        return []

    def weights(self) -> Weights:
        return ()

    def kernel_shape(self) -> tuple[int, ...]:
        raise NotImplementedError("an operator without weights has no kernel")


class ModuleSource(Source):
    """Weights read from modules."""

    @abstractmethod
    def modules(self) -> Iterator[nn.Module]:
        """The modules they are read from."""

    def slots(self) -> list[Slot]:
        # With a BatchNorm's num_batches_tracked: torch updates the statistics without moving their version counters.
        return [
            (tensors, name)
            for module in self.modules()
            for tensors in (module._parameters, module._buffers)
            for name in tensors
        ]


class GivenSource(Source):
    """Tensors given to an operator by its caller, who alone keeps them alive; None for those not given."""

    def __init__(self, tensors: Weights) -> None:
        self._references = [None if t is None else weakref.ref(t) for t in tensors]

    def slots(self) -> list[Slot]:
        alive = weakref.WeakValueDictionary({str(i): t for i, t in enumerate(self._tensors()) if t is not None})
        return [(alive, name) for name in alive]

    def weights(self) -> Weights:
        return tuple(None if t is None else t.detach() for t in self._tensors())

    def holds(self, tensors: Weights) -> bool:
        """Whether these are the very tensors it was made of."""
        return all(mine is given for mine, given in zip(self._tensors(), tensors, strict=True))

    def kernel_shape(self) -> tuple[int, ...]:
        raise NotImplementedError("operators with given weights are traced by their own schema")

    def _tensors(self) -> Weights:
        return tuple(None if reference is None else reference() for reference in self._references)


@dataclass(frozen=True)
class LayerSource(ModuleSource):
    """A convolution or linear layer, then the BatchNorm and the layer scale that follow it, where there are any.

    Attributes:
        scale: the module that holds a scale per output channel, and its name there.
    """

    layer: nn.Conv2d | nn.Linear
    norm: Any = None
    scale: tuple[nn.Module, str] | None = None

    def modules(self) -> Iterator[nn.Module]:
        yield self.layer
        if self.norm is not None:
            yield self.norm
        if self.scale is not None:
            yield self.scale[0]

    def kernel_shape(self) -> tuple[int, ...]:
        return tuple(self.layer.weight.shape)

    def weights(self) -> Weights:
        weight, bias = self.layer.weight.detach(), _detached(self.layer.bias)
        if self.norm is None and self.scale is None:
            return weight, bias
        factor, shift = batchnorm_affine(self.norm) if self.norm is not None else (torch.ones(()), None)
        if self.scale is not None:
            scale = _tensor(self.scale).double()
            factor, shift = factor * scale, None if shift is None else shift * scale
        folded_bias = None if bias is None else bias.double() * factor
        if shift is not None:
            folded_bias = shift if folded_bias is None else folded_bias + shift
        folded = weight.double() * factor.view(-1, *(1,) * (weight.dim() - 1))
        return folded.to(weight.dtype), None if folded_bias is None else folded_bias.to(weight.dtype)


@dataclass(frozen=True)
class DepthwisePointwiseSource(ModuleSource):
    """A depthwise convolution and the 1x1 one that follows it."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d

    def modules(self) -> Iterator[nn.Module]:
        yield self.depthwise
        yield self.pointwise

    def kernel_shape(self) -> tuple[int, ...]:
        return (self.pointwise.out_channels, *self.depthwise.weight.shape[1:])

    def weights(self) -> Weights:
        convs = (self.depthwise, self.pointwise)
        return tuple(t for conv in convs for t in (conv.weight.detach(), _detached(conv.bias)))


@dataclass(frozen=True)
class DualLinearSource(ModuleSource):
    """``linear(x + scale * proj(a))`` as ``w_x x + w_a a + bias``: w_a = W·diag(scale)·P, bias = W·(scale·p) + b."""

    proj: nn.Linear
    linear: nn.Linear
    scale: tuple[nn.Module, str] | None = None

    def modules(self) -> Iterator[nn.Module]:
        yield self.proj
        yield self.linear
        if self.scale is not None:
            yield self.scale[0]

    def kernel_shape(self) -> tuple[int, ...]:
        return tuple(self.linear.weight.shape)

    def weights(self) -> Weights:
        w_x = self.linear.weight.detach()
        outer, proj = w_x.double(), self.proj.weight.detach().double()
        if self.scale is not None:
            outer = outer * _tensor(self.scale).double()
        bias = None
        if self.proj.bias is not None:
            bias = outer @ self.proj.bias.detach().double()
        if self.linear.bias is not None:
            bias = self.linear.bias.detach().double() + (0 if bias is None else bias)
        return w_x, (outer @ proj).to(w_x.dtype), None if bias is None else bias.to(w_x.dtype)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _tensor(slot: tuple[nn.Module, str]) -> Tensor:
    tensor: Tensor = getattr(*slot)
    return tensor.detach()
