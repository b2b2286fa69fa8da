"""Heads and hidden units: masked and cut out are the same, budgets are met and count what is really saved."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from tests.methods.test_attention import error
from updp_rt.artifacts import create_model
from updp_rt.blocks import UnsupportedModelError, count_costs, make_progressive, merge_model, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.methods import S2ViTE
from updp_rt.methods.units import (
    Budget,
    find_budget,
    find_gates,
    find_parts,
    narrowed,
    put_gates,
    read_kept,
    write_kept,
)

SIZE = (3, 32, 32)


def tiny(**changes: int) -> nn.Module:
    """A ViT of two blocks of four heads and 192 hidden numbers, for 16 tokens and a class token."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "depth": 2, "num_heads": 4, "patch_size": 8, **changes}
    model = timm.create_model("test_vit", num_classes=3, **sizes)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": SIZE}
    return randomize(model).eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def budget(goal: int) -> Budget:
    return Budget(goal, {"a.attn": 4, "a.mlp": 50}, {"a.attn": 100, "a.mlp": 7})


def test_what_is_cut_out_computes_what_is_masked() -> None:
    model, draw = tiny().double(), torch.Generator().manual_seed(1)
    gated = put_gates(model, find_parts("s2vite", model))
    with torch.no_grad():
        assert torch.equal(gated(images()), model(images()))
        for part, gate in find_gates(gated).items():
            gate.kept.copy_(torch.rand(len(gate.kept), generator=draw) < 0.6)
            gate.kept[1] = True
            assert not gate.kept.all(), part
        cut = narrowed(gated)
        assert error(cut(images()), gated(images())) < 1e-12
        assert error(gated(images()), model(images())) > 1e-3
    left = {part: int(gate.kept.sum()) for part, gate in find_gates(gated).items()}
    assert find_parts("s2vite", cut) == left
    counted = find_budget("s2vite", model, 1, SIZE)
    gone = sum(counted.macs[part] * (counted.units[part] - count) for part, count in left.items())
    assert count_costs(model, SIZE)[0].macs - count_costs(cut, SIZE)[0].macs == gone


def test_the_subnet_of_a_method_is_behind_the_masks_in_its_bodies() -> None:
    model, method = tiny().double(), S2ViTE()
    bodies = {"blocks.0.attn": "1:3", "blocks.1.mlp": "0:5 7:100"}
    subnet = method.subnet(model, bodies)
    with torch.no_grad():
        by_hand = method.subnet(model, {})
        by_hand.blocks[0].attn.proj.weight[:, :16] = 0  # type: ignore[index, union-attr]
        by_hand.blocks[0].attn.proj.weight[:, 48:] = 0  # type: ignore[index, union-attr]
        by_hand.blocks[1].mlp.fc2.weight[:, [5, 6, *range(100, 192)]] = 0  # type: ignore[index, union-attr]
        assert error(subnet(images()), by_hand(images())) < 1e-12
        merged = method.merge(subnet, lambda bodies: {})
        assert error(merged(images()), by_hand(images())) < 1e-12
    assert {name: origin.form for name, origin in method.origins(merged, bodies).items()} == {
        "blocks.0.attn": "2 kept",
        "blocks.1.mlp": "98 kept",
    }


@pytest.mark.parametrize("count", [1, 2])
def test_the_goal_is_what_merged_blocks_save(count: int) -> None:
    model = tiny()
    subnet = make_progressive(model, [f"blocks.{i}" for i in range(count)])
    set_lambda(subnet, 1.0)
    saved = count_costs(model, SIZE)[0].macs - count_costs(merge_model(subnet), SIZE)[0].macs
    found = find_budget("scop", model, count, SIZE)
    assert found.goal == saved
    assert found.units == {"blocks.0.attn": 4, "blocks.0.mlp": 192, "blocks.1.attn": 4, "blocks.1.mlp": 192}
    kept = found.same_share()
    assert found.is_met(kept)
    assert not found.is_met({part: number + (part.endswith("mlp")) for part, number in kept.items()})


def test_one_share_for_all_leaves_as_much_as_it_may() -> None:
    for goal in (1, 99, 100, 107, 250, 500, 643):
        kept = budget(goal).same_share()
        assert budget(goal).is_met(kept)
        # By trying all shares there are.
        best = max(
            ({"a.attn": max(1, s * 4 // 100), "a.mlp": max(1, s * 50 // 100)} for s in range(101)),
            key=lambda each: (budget(goal).is_met(each), sum(each.values())),
        )
        assert kept == best
    with pytest.raises(ValueError, match="give a smaller num_pruned"):
        budget(644).same_share()


def test_the_lowest_go_until_the_budget_is_met() -> None:
    scores = {"a.attn": torch.tensor([0.5, 0.1, 3.0, 0.2]), "a.mlp": torch.linspace(0.3, 1.0, 50)}
    masks = budget(214).cut_least(scores)
    assert masks["a.attn"].tolist() == [True, False, True, False]
    assert masks["a.mlp"].tolist() == [False] * 2 + [True] * 48
    all_but_one = budget(643).cut_least(scores)
    assert [int(kept.sum()) for kept in all_but_one.values()] == [1, 1]
    assert all_but_one["a.attn"][2]
    assert all_but_one["a.mlp"][49]
    with pytest.raises(ValueError, match="do not have"):
        budget(644).cut_least(scores)


def test_masks_are_written_as_ranges() -> None:
    for seed in range(4):
        kept = torch.from_numpy(np.random.default_rng(seed).random(37) < 0.2 + 0.2 * seed)
        assert torch.equal(read_kept(write_kept(kept), 37), kept)
    assert write_kept(torch.tensor([False, True, True, False, True])) == "1:3 4:5"


def test_models_that_cannot_be_narrowed_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="as many heads as numbers in each, 8"):
        find_parts("scop", tiny(num_heads=8))
    with pytest.raises(UnsupportedModelError, match="the method scop takes parts out of transformer blocks"):
        find_parts("scop", create_model("small_resnet"))
