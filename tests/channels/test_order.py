"""The order of channels: consecutive ones against all permutations, and the fewest copies against all orders."""

from __future__ import annotations

from itertools import chain, pairwise, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import updp_rt.channels.order as order_module
from updp_rt.channels.consecutive import consecutive_blocks
from updp_rt.channels.layout import Layout, find_alive
from updp_rt.channels.order import find_order
from updp_rt.channels.trace import trace


def runs(order: tuple[int, ...], wanted: frozenset[int]) -> int:
    inside = [element in wanted for element in order]
    return sum(now and not before for now, before in zip(inside, [False, *inside], strict=False))


sets = st.lists(st.frozensets(st.integers(0, 5), max_size=6), max_size=5)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(wanted=sets)
def test_blocks_exist_just_where_an_order_does(wanted: list[frozenset[int]]) -> None:
    found = consecutive_blocks(range(6), wanted)
    possible = any(all(runs(order, s) <= 1 for s in wanted) for order in permutations(range(6)))
    assert (found is not None) == possible
    if found is not None:
        order = tuple(chain.from_iterable(sorted(block) for block in found))
        assert sorted(order) == list(range(6))
        assert all(runs(order, s) <= 1 for s in wanted)
        # The elements of a block may stand in any order.
        turned = tuple(chain.from_iterable(sorted(block, reverse=True) for block in found))
        assert all(runs(turned, s) <= 1 for s in wanted)


class Fan(nn.Module):
    """One or two producers, concatenated, and several readers of both."""

    def __init__(self, widths: tuple[int, ...], readers: int) -> None:
        super().__init__()
        self.made = nn.ModuleList(nn.Conv2d(3, width, 1) for width in widths)
        self.read = nn.ModuleList(nn.Conv2d(sum(widths), 1, 1) for _ in range(readers))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([made(x) for made in self.made], 1)
        return torch.cat([read(y) for read in self.read], 1)


def copies_left(masks: list[np.ndarray], order: list[int]) -> int:
    """Channels gathered where the masked layers read the channels in this order."""
    kept = [mask[order] for mask in masks]
    return sum(int(k.sum()) for k in kept if np.ptp(np.flatnonzero(k)) + 1 != k.sum())


@pytest.mark.parametrize(("widths", "readers"), [((6,), 3), ((6,), 5), ((3, 4), 4), ((2, 2, 3), 4)])
@pytest.mark.parametrize("seed", range(4))
def test_fewest_copies_of_all_orders(widths: tuple[int, ...], readers: int, seed: int) -> None:
    net = Fan(widths, readers).eval()
    found = trace(net, torch.randn(1, 3, 2, 2))
    draw = np.random.default_rng(seed)
    total = sum(widths)
    masks = {f"read.{i}": draw.permutation(total) < draw.integers(1, total) for i in range(readers)}
    alive = find_alive(found, masks)
    there = alive[found.consumers["read.0"].channels]
    starts = np.cumsum([0, *widths])
    groups = [[c for c in range(a, b) if there[c]] for a, b in pairwise(starts)]
    orders = product(*(permutations(group) for group in groups))
    best = min(copies_left(list(masks.values()), list(chain.from_iterable(order))) for order in orders)
    order = find_order(found, masks, alive)
    assert order.exact
    assert order.left == best


@pytest.mark.parametrize("seed", range(3))
def test_many_readers_are_served_in_polynomial_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Fan((64,), 40).eval()
    found = trace(net, torch.randn(1, 3, 2, 2))
    draw = np.random.default_rng(seed)
    # Ranges of a hidden order, so that all can be served at once, and some that cannot.
    hidden = draw.permutation(64)
    masks = {}
    for i in range(30):
        first, last = sorted(draw.choice(65, 2, replace=False))
        masks[f"read.{i}"] = np.isin(np.arange(64), hidden[first:last])
    masks |= {f"read.{i}": draw.permutation(64) < 2 for i in range(30, 40)}
    order = find_order(found, masks, find_alive(found, masks))
    wide = [name for name, mask in masks.items() if mask.sum() > 2]
    assert sum(name in order.served for name in wide) >= 0.9 * len(wide)
    few = {name: masks[name] for name in list(masks)[:8]}
    exact = find_order(found, few, find_alive(found, few))
    monkeypatch.setattr(order_module, "EXACT_UP_TO", 0)
    greedy = find_order(found, few, find_alive(found, few))
    assert greedy.left == exact.left == 0


def test_channels_trade_places_only_with_their_like() -> None:
    net = Fan((4, 5), 3).eval()
    found = trace(net, torch.randn(1, 3, 2, 2))
    masks = {f"read.{i}": np.random.default_rng(i).permutation(9) < 4 for i in range(3)}
    alive = find_alive(found, masks)
    layout = Layout(alive, find_order(found, masks, alive).occupant)
    for source in found.sources:
        assert set(layout.occupant[source].tolist()) == set(source.tolist())
