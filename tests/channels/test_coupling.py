"""Free or constrained: what changes a model's outputs less, on images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import updp_rt
from updp_rt.channels import ChannelError, mask_model, trace
from updp_rt.channels.check import output_changes
from updp_rt.channels.coupling import choose_coupling
from updp_rt.channels.importance import score_inputs
from updp_rt.channels.masks import choose_masks

X = torch.randn(5, 3, 7, 6)


class Forked(nn.Module):
    """Channels that two layers read, one of which saves many more parameters than the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.small, self.large = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1), nn.Conv2d(12, 9, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.stem(x).relu()
        return {"small": self.small(y), "large": self.large(y)}


def test_output_change_is_of_all_outputs_on_all_images() -> None:
    model = Forked()
    masks = {"small": np.arange(12) > 3, "large": np.arange(12) % 2 == 0}
    masked = mask_model(model, masks)
    with torch.no_grad():
        want, got = (torch.cat([out.flatten() for out in each(X).values()]) for each in (model, masked))
    change = float((got - want).norm() / want.norm())
    assert output_changes(model, [masks, {}], X.split(2)) == [pytest.approx(change, rel=1e-4), 0]


@pytest.mark.slow
def test_the_masks_that_change_outputs_less_are_chosen() -> None:
    chosen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        model = Forked()
        found = trace(model, X)
        scores = score_inputs(model, found, "magnitude")
        each = {constrained: choose_masks(found, scores, 0.4, constrained=constrained) for constrained in (False, True)}
        change = dict(zip(each, output_changes(model, list(each.values()), [X]), strict=True))
        best = min(change, key=change.__getitem__)
        masks, notes = choose_coupling(model, found, scores, 0.4, [X])
        assert all(np.array_equal(masks[name], mask) for name, mask in each[best].items())
        assert bool(notes) == (best and change[True] < change[False])
        result = updp_rt.prune_channels(model, X[:1], 0.4, "magnitude", images=X)
        assert all(np.array_equal(result.masks[name], mask) for name, mask in masks.items())
        assert set(notes) <= set(result.notes)
        blind = updp_rt.prune_channels(model, X[:1], 0.4, "magnitude")
        assert all(np.array_equal(blind.masks[name], mask) for name, mask in each[False].items())
        chosen.add(best)
    assert chosen == {False, True}


def test_free_where_a_limit_holds_back_what_shares_with_it() -> None:
    model = Forked()
    found = trace(model, X)
    scores = score_inputs(model, found, "lamp")
    limits = {"small": 0.0}
    with pytest.raises(ChannelError, match="cannot be removed"):
        choose_masks(found, scores, 0.4, constrained=True, limits=limits)
    masks, notes = choose_coupling(model, found, scores, 0.4, [X], limits=limits)
    assert masks["small"].all()
    assert not masks["large"].all()
    assert not notes
