"""Random networks: branches, concatenations of concatenations, shared readers, residual chains, gates, dead ends."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from updp_rt.blocks.randomize import randomize

STEPS = (
    "conv",
    "conv3",
    "norm",
    "act",
    "depthwise",
    "add",
    "gate",
    "cat",
    "dense",
    "pool",
    "halves",
    "grouped",
    "layernorm",
    "roll",
    "power",
    "scale",
)
HEADS = ("mean", "flatten", "tokens")


class Dense(nn.Module):
    """Concatenates a list that it is called with, as DenseNet's layers do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.act, self.conv = nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1)

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return self.conv(self.act(self.norm(torch.cat(tensors, 1))))


class Scale(nn.Module):
    """Has a number a channel that is no parameter, and a scalar before a tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.numbers = torch.rand(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 0.5, x * self.numbers)


class RandomNet(nn.Module):
    """Runs a list of steps, each on earlier tensors, all of one height and width; then a head over the last ones."""

    def __init__(self, steps: list[tuple[str, int, int, int]], head: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        widths = [6]
        self.steps: list[tuple[str, int, int]] = []
        self.parts = nn.ModuleList()
        for kind, one, other, width in steps:
            a, b = one % len(widths), other % len(widths)
            part, made = self._make(kind, widths[a], widths[b], width)
            self.steps.append((kind, a, b))
            self.parts.append(part)
            widths.append(made)
        used = {i for _, a, b in self.steps for i in (a, b)} | {len(widths) - 1}
        self.last = sorted(set(range(len(widths))) - used) or [len(widths) - 1]
        self.last = sorted({*self.last, len(widths) - 1})
        total = sum(widths[i] for i in self.last)
        self.head = head
        self.mix = nn.Conv2d(total, 5, 1)
        self.fc = nn.Linear(5 * size[0] * size[1] if head == "flatten" else 5, 4)

    @staticmethod
    def _make(kind: str, first: int, second: int, width: int) -> tuple[nn.Module, int]:
        plain: dict[str, Any] = {
            "norm": lambda: nn.BatchNorm2d(first),
            "act": nn.GELU,
            "pool": lambda: nn.AvgPool2d(3, 1, 1),
            "depthwise": lambda: nn.Conv2d(first, first, 3, padding=1, groups=first),
            "layernorm": lambda: LayerNorm2d(first),
            "roll": nn.Identity,
            "power": nn.Tanh,
            "scale": lambda: Scale(first),
            "halves": nn.ReLU,
        }
        if kind in plain:
            return plain[kind](), first
        if kind == "cat":
            return nn.Identity(), first + second
        if kind == "dense":
            return Dense(first + second, width), width
        if kind == "add":  # a projection where the widths differ
            return nn.Identity() if first == second else nn.Conv2d(second, first, 1), first
        if kind == "gate":
            return nn.Sequential(nn.Conv2d(first, 3, 1), nn.ReLU(), nn.Conv2d(3, first, 1), nn.Sigmoid()), first
        groups = 2 if kind == "grouped" and first % 2 == 0 else 1
        kernel = 1 if kind == "conv" else 3
        return nn.Conv2d(first, groups * width, kernel, padding=kernel // 2, groups=groups), groups * width

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for (kind, a, b), part in zip(self.steps, self.parts, strict=True):
            one, other = found[a], found[b]
            if kind == "cat":
                found.append(torch.cat([one, other], 1))
            elif kind == "dense":
                found.append(part([one, other]))
            elif kind == "add":
                found.append(one + part(other))
            elif kind == "gate":
                found.append(one * part(one.mean((2, 3), keepdim=True)))
            elif kind == "power":
                found.append(2 ** part(one))
            elif kind == "roll":
                found.append(torch.roll(one, 1, 1))
            elif kind == "halves":
                left, right = one.chunk(2, 1) if one.shape[1] > 1 else (one, one[:, :0])
                found.append(torch.cat([part(left), right], 1))
            else:
                found.append(part(one))
        y = self.mix(torch.relu(torch.cat([found[i] for i in self.last], 1)))
        if self.head == "tokens":
            return self.fc(y.flatten(2).transpose(1, 2)).mean(1)
        return self.fc(y.mean((2, 3)) if self.head == "mean" else y.flatten(1))


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    numbers = st.integers(0, 30)
    step = st.tuples(st.sampled_from(STEPS), numbers, numbers, st.integers(2, 7))
    steps = draw(st.lists(step, min_size=2, max_size=12))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return randomize(RandomNet(steps, draw(st.sampled_from(HEADS)), (5, 4))).double().eval()
