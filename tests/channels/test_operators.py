"""The table of operators: users add rules for those that it lacks, from outside the package."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import updp_rt
from updp_rt.channels import Channels, Graph, Rule, add_operator, elementwise, pointwise
from updp_rt.channels.operators import RULES

X = torch.randn(2, 3, 5, 6)


@torch.library.custom_op("updp_rt_toys::crelu", mutates_args=())
def crelu(x: Tensor) -> Tensor:
    """Positive and negative parts side by side: ``[N, C, H, W]`` to ``[N, 2C, H, W]``."""
    return torch.cat([x.relu(), (-x).relu()], 1)


@crelu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.cat([x, x], 1)


@torch.library.custom_op("updp_rt_toys::relu", mutates_args=())  # one of torch's names, another meaning
def reverse(x: Tensor) -> Tensor:
    return x.flip(1)


@reverse.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def follow_crelu(graph: Graph, node: fx.Node) -> Channels | None:
    x = graph.values[node.args[0]]
    if not isinstance(x, Channels) or x.axis != 1:
        return None
    return Channels(1, np.concatenate([x.atoms, x.atoms]))


class Toy(nn.Module):
    def __init__(self, operator: str, doubled: bool = False) -> None:
        super().__init__()
        self.library, _, self.name = operator.partition("::")
        self.first = nn.Conv2d(3, 8, 3)
        self.second, self.third = nn.Conv2d(16 if doubled else 8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        operator = getattr(getattr(torch.ops, self.library), self.name)
        return self.third(self.second(operator(self.first(x))))


@pytest.fixture(autouse=True)
def unchanged_table() -> Iterator[None]:
    with patch.dict(RULES):
        yield


def test_a_rule_of_ones_own() -> None:
    model = Toy("updp_rt_toys::crelu", doubled=True).eval()
    before = updp_rt.prune_channels(model, X, scope="local")
    assert before.model.second.in_channels == 16
    assert any("updp_rt_toys::crelu is not followed" in note for note in before.notes)
    add_operator("updp_rt_toys::crelu", Rule(follow_crelu))
    keep = np.arange(16) % 8 < 3
    after = updp_rt.prune_channels(model, X, masks={"second": keep})
    assert (after.model.first.out_channels, after.model.second.in_channels) == (3, 6)
    assert after.error < 1e-12
    assert not after.notes


def test_rules_that_know_nothing_end_the_segment() -> None:
    add_operator("updp_rt_toys::crelu", Rule(lambda graph, node: None))
    result = updp_rt.prune_channels(Toy("updp_rt_toys::crelu", doubled=True).eval(), X, scope="local")
    assert result.model.second.in_channels == 16
    assert sum("crelu is not followed" in note for note in result.notes) == 1


@pytest.mark.parametrize("rule", [pointwise, elementwise])
def test_the_packages_own_rules_for_torchs_operators(rule: Rule) -> None:
    assert "special_i0e" not in RULES
    model = Toy("aten::special_i0e").eval()
    assert updp_rt.prune_channels(model, X, scope="local").model.second.in_channels == 8
    add_operator("aten::special_i0e", rule)
    result = updp_rt.prune_channels(model, X, scope="local")
    assert result.model.second.in_channels == 4
    assert result.error < 1e-12


def test_operators_of_other_libraries_are_not_torchs() -> None:
    """`updp_rt_toys::relu` reverses channels, so it must not be taken for a relu."""
    result = updp_rt.prune_channels(Toy("updp_rt_toys::relu").eval(), X, scope="local")
    assert result.model.second.in_channels == 8
    assert any("updp_rt_toys::relu is not followed" in note for note in result.notes)


def test_a_wrong_rule_is_found_out() -> None:
    add_operator("updp_rt_toys::relu", pointwise)
    with pytest.raises(updp_rt.ChannelError, match="differs from the masked one"):
        updp_rt.prune_channels(Toy("updp_rt_toys::relu").eval(), X, scope="local")


@pytest.mark.parametrize("name", ["relu", "aten::relu", "relu_", "aten::conv2d"])
def test_a_rule_is_not_replaced(name: str) -> None:
    with pytest.raises(ValueError, match="has a rule already"):
        add_operator(name, pointwise)
