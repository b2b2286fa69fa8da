"""The steps of a block's chain: linear layers that both forms run, and what fades between."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.reparam import AffineConv, centre_tap, conv_padding, head_padding
from updp_rt.reparam.chain import NamedLayer

Pair = tuple[int, int]


class Gate(ABC):
    """A λ that learns: what chooses blocks may stand in a block's `lam` while it is trained."""

    @abstractmethod
    def fade(self, old: Tensor, new: Tensor) -> Tensor:
        """What goes on, from the baseline's value and the pruned form's."""

    def __format__(self, spec: str) -> str:
        return "a gate"


Lambda = float | Gate


def fade(lam: Lambda, old: Callable[[], Tensor], new: Callable[[], Tensor]) -> Tensor:
    """``(1 - λ) * old() + λ * new()``; the side with weight 0 is not computed."""
    if isinstance(lam, Gate):
        return lam.fade(old(), new())
    if lam == 0.0:
        return old()
    if lam == 1.0:
        return new()
    return torch.lerp(old(), new(), lam)


class Place(NamedTuple):
    """The place of a step in its chain.

    The chain pads once, at its head, as the merged convolution does. So between its convolutions maps carry a ring
    where the baseline pads with zeros.
    """

    padding: Pair  # with which a convolution here runs
    ring: Pair  # of the step's input


@dataclass(frozen=True)
class Keep:
    """A linear layer both forms run: a convolution, a linear layer, or a ``[C]`` tensor of scales."""

    name: str
    layer: nn.Conv2d | nn.Linear | Tensor

    def run(self, h: Tensor, lam: Lambda, place: Place) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            conv = self.layer
            return F.conv2d(h, conv.weight, conv.bias, conv.stride, place.padding, conv.dilation, conv.groups)
        if isinstance(self.layer, nn.Linear):
            if h.dim() == 4:
                return self.layer(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.layer(h)
        return h * (self.layer.view(1, -1, 1, 1) if h.dim() == 4 else self.layer)

    def merged(self) -> NamedLayer:
        return self.name, self.layer


@dataclass(frozen=True)
class Shrink:
    """A convolution whose taps off the centre fade away, so that at λ = 1 it is a 1x1."""

    name: str
    conv: nn.Conv2d

    def run(self, h: Tensor, lam: Lambda, place: Place) -> Tensor:
        conv, own = self.conv, conv_padding(self.conv)
        centre = conv.weight[:, :, own[0] : own[0] + 1, own[1] : own[1] + 1]
        if lam == 1.0:
            return F.conv2d(h, centre, conv.bias, conv.stride, 0, 1, conv.groups)
        (kh, kw), (ph, pw) = conv.kernel_size, own
        placed = F.pad(centre, (pw, kw - 1 - pw, ph, kh - 1 - ph))
        weight = fade(lam, lambda: conv.weight, lambda: placed)
        return F.conv2d(h, weight, conv.bias, conv.stride, own, 1, conv.groups)

    def merged(self) -> NamedLayer:
        return self.name, centre_tap(AffineConv.from_conv(self.conv, self.name))


@dataclass(frozen=True)
class Fade:
    """What lies between two linear layers: `old` in the baseline, `new` (a BatchNorm or nothing) when pruned."""

    name: str
    old: Callable[[Tensor], Tensor]
    new: nn.Module | None = None

    def run(self, h: Tensor, lam: Lambda, place: Place) -> Tensor:
        # The baseline's side has zeros in the ring, and its norms must not see more than they saw.
        def old() -> Tensor:
            return _pad_ring(self.old(interior(h, place.ring)), place.ring)

        return fade(lam, old, lambda: h if self.new is None else self.new(h))

    def merged(self) -> NamedLayer:
        return self.name, self.new if self.new is not None else nn.Identity()


Step = Keep | Shrink | Fade


def layers_of(steps: Sequence[Step]) -> list[nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of a chain."""
    layers = [step.conv if isinstance(step, Shrink) else step.layer for step in steps if not isinstance(step, Fade)]
    return [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]


def stride_of(layers: Sequence[nn.Module]) -> Pair:
    """Pixels of a chain's input from one of its output to the next."""
    strides = [layer.stride for layer in layers if isinstance(layer, nn.Conv2d)]
    return math.prod(rows for rows, _ in strides), math.prod(columns for _, columns in strides)


def place_steps(steps: list[Step]) -> list[Place]:
    """The padding each step runs with, and the ring its input carries."""
    padded = [step.layer for step in steps if isinstance(step, Keep) and isinstance(step.layer, nn.Conv2d)]
    if not padded:
        return [Place((0, 0), (0, 0)) for _ in steps]
    strides = [(conv.stride[0], conv.stride[1]) for conv in padded]
    padding, rings = head_padding([conv_padding(conv) for conv in padded], strides)
    places, ring, outputs = [], (0, 0), iter(rings)
    for before, step in zip([None, *steps], steps, strict=False):
        if ring != (0, 0) and not isinstance(step, Fade) and not isinstance(before, Fade):
            raise ValueError(f"{step.name}: a Fade must come before it, or the ring would not fade with λ")
        places.append(Place(padding, ring))
        if isinstance(step, Keep) and isinstance(step.layer, nn.Conv2d):
            padding, ring = (0, 0), next(outputs)
    return places


def interior(h: Tensor, ring: Pair) -> Tensor:
    """``[N, C, H, W]`` without its outermost ``(rows, columns)``; any tensor if there is no ring."""
    if ring == (0, 0):
        return h
    return h[:, :, ring[0] : h.shape[2] - ring[0], ring[1] : h.shape[3] - ring[1]]


def _pad_ring(h: Tensor, ring: Pair) -> Tensor:
    return h if ring == (0, 0) else F.pad(h, (ring[1], ring[1], ring[0], ring[0]))
