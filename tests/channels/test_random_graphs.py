"""On random networks with random masks the exported model computes what the masked one does, whichever way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.channels.common import all_exports, random_masks
from tests.channels.graphs import RandomNet, networks
from tests.conftest import relative_error
from updp_rt.channels import ChannelError, mask_model
from updp_rt.channels.importance import score_inputs
from updp_rt.channels.layout import Layout, count_params, find_alive
from updp_rt.channels.masks import choose_masks
from updp_rt.channels.order import find_order
from updp_rt.channels.trace import trace

BOUND = 1e-12
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.slow
@FEW
@given(net=networks(), share=st.sampled_from([0.2, 0.5, 0.8]), seed=st.integers(0, 1000))
def test_masked_and_exported_agree(net: RandomNet, share: float, seed: int) -> None:
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    found = trace(net, x)
    assume(found.prunable)
    masks = random_masks(found, share, seed)
    wanted = mask_model(net, masks)
    other = torch.randn(3, 3, 5, 4, dtype=torch.float64)
    exports = all_exports(net, x, masks, found)
    naive = exports["naive"][1]
    for name, (exported, copies) in exports.items():
        with torch.no_grad():
            assert relative_error(exported(other), wanted(other)) < BOUND, name
        assert copies.gathered <= naive.gathered
        assert copies.total <= naive.total
    assert exports["fewest"][1].gathered == 0
    assert count_params(found, masks) == sum(parameter.numel() for parameter in exports["naive"][0].parameters())


@pytest.mark.slow
@FEW
@given(net=networks(), seed=st.integers(0, 1000))
def test_served_consumers_read_one_run(net: RandomNet, seed: int) -> None:
    found = trace(net, torch.randn(1, 3, 5, 4, dtype=torch.float64))
    masks = random_masks(found, 0.5, seed)
    alive = find_alive(found, masks)
    order = find_order(found, masks, alive)
    layout = Layout(alive, order.occupant)
    gathered = 0
    for name, mask in masks.items():
        kept = np.flatnonzero(mask[layout.arrange(found.consumers[name].channels)])
        if name in order.served:
            assert kept[-1] - kept[0] + 1 == len(kept)
        elif not mask[alive[found.consumers[name].channels].nonzero()[0]].all():
            gathered += len(kept)
    assert gathered == order.left


@pytest.mark.slow
@FEW
@given(net=networks(), budget=st.sampled_from([("local", 0.3), ("local", 0.6), ("global", 0.1)]))
def test_constrained_masks_leave_nothing_to_select(net: RandomNet, budget: tuple[str, float]) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    found = trace(net, x)
    assume(found.prunable)
    scope, amount = budget
    try:
        masks = choose_masks(found, score_inputs(net, found, "magnitude"), amount, scope=scope, constrained=True)
    except ChannelError as error:
        if "cannot be removed" not in str(error):
            raise
        assume(False)  # so little of this net can go
    exported, copies = all_exports(net, x, masks, found)["naive"]
    with torch.no_grad():
        assert relative_error(exported(x), mask_model(net, masks)(x)) < BOUND
    assert copies.gathered == 0
