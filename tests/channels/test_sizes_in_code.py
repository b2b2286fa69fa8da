"""Scalars and sizes that stand in a model's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.channels.layers import Layers, kept, prune


@pytest.mark.parametrize(
    "change",
    [
        lambda y: 2**y,
        lambda y: 2 - y,
        lambda y: 2 / (y.square() + 1),
        lambda y: torch.pow(y.abs() + 1, 0.5),
        lambda y: torch.where(y > 0, 1.0, y),
        lambda y: torch.rsub(y, 1, alpha=2),
        lambda y: y.masked_fill(y < 0, 0.5),
        lambda y: torch.maximum(y, torch.zeros_like(y)),
        lambda y: y.mean((2, 3), keepdim=True).expand_as(y) + y,
        lambda y: torch.lerp(y, y * 2, 0.3),
    ],
)
def test_scalars_first_and_last(change: Callable[[Tensor], Tensor]) -> None:
    result = prune(Layers(lambda s, x: s.c(change(s.b(s.a(x))))))
    assert kept(result) == {"b": 4, "c": 4}
    assert not result.notes


@pytest.mark.parametrize("change", [lambda y: y.cumsum(2), lambda y: F.adaptive_max_pool2d(y, 2, True)[0]])
def test_other_operators_end_a_segment_or_pass(change: Callable[[Tensor], Tensor]) -> None:
    result = prune(Layers(lambda s, x: s.c(change(s.b(s.a(x))))))
    assert kept(result)["b"] == 4
    assert ("c" in kept(result)) != any("cumsum is not followed" in note for note in result.notes)


@pytest.mark.parametrize(
    "run",
    [
        lambda s, x: s.c(s.b(s.a(x)) * s.scale.view(1, 8, 1, 1)),
        lambda s, x: s.c(s.b(s.a(x)) * s.scale.reshape(8, 1, 1)),
        lambda s, x: s.c(s.b(s.a(x)) * s.scale[None, :, None, None].expand(2, 8, 4, 4)),
        lambda s, x: s.c(s.b(s.a(x)) + s.b.bias.view(8, 1, 1)),
        lambda s, x: s.c(s.b(s.a(x)).mean((2, 3), keepdim=True).expand(2, 8, 4, 4)),
        lambda s, x: s.c(s.b(s.a(x)).mean((2, 3)).view(2, 8, 1, 1)),
    ],
)
def test_sizes_in_the_code_keep_their_channels(run: Callable[..., Tensor]) -> None:
    result = prune(Layers(run, scale=nn.Parameter(torch.randn(8))))
    assert kept(result) == {"b": 4}  # where nothing is written out
    assert any("all stay; without that, the exported model does not run: RuntimeError" in note for note in result.notes)


def test_sizes_of_two_kinds_in_the_code() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.b(F.relu(s.a(x)) * s.scale.view(8, 1, 1))
        return s.d(s.c(y.mean((2, 3), keepdim=True).expand(2, 8, 1, 1)))

    result = prune(Layers(run, scale=nn.Parameter(torch.randn(8)), d=nn.Conv2d(4, 4, 1)))
    assert kept(result) == {"d": 2}
    assert any("of plain tensors, and channels that pass a reshape all stay" in note for note in result.notes)


def test_parameters_that_are_inputs_of_modules() -> None:
    """As learned queries and class tokens are."""
    model = Layers(
        lambda s, x: s.c(s.b(s.a(x))) + s.act(s.query), query=nn.Parameter(torch.rand(4, 1, 1)), act=nn.ReLU()
    )
    assert kept(prune(model)) == {"b": 4, "c": 4}
