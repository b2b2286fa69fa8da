"""Three convolutions called as a test says, pruned and compared with what the masked model computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import updp_rt
from updp_rt.channels import ChannelResult

X = torch.randn(2, 3, 6, 6)


def prune(model: nn.Module, example: Any = X, amount: float = 0.5, **settings: Any) -> ChannelResult:
    """Half of every layer's inputs; what is left computes what the masked model does, on other inputs too."""
    result = updp_rt.prune_channels(model.eval(), example, amount, scope="local", **settings)
    assert result.error < 1e-9
    assert result.precision == "float64"
    return result


class Layers(nn.Module):
    """Three convolutions, called as `run` says."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.run = run
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def kept(result: ChannelResult) -> dict[str, int]:
    return {layer.name: layer.kept for layer in result.layers}
