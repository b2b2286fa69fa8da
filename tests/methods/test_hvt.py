"""Tokens pooled between blocks: what is computed, where pools go, and that such models come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import updp_rt
from tests.methods.test_attention import error
from tests.methods.test_units import SIZE, images, tiny
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import TokenPool, UnsupportedModelError, count_costs
from updp_rt.methods import HVT
from updp_rt.methods.hvt import find_pools, pooled, schedules
from updp_rt.methods.units import merged_macs


def test_tokens_are_pooled_and_averaged() -> None:
    model: Any = tiny(depth=3).double()
    made: Any = pooled(model, ["blocks.0"])
    made.blocks[1].pos_embed.data.normal_(generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = model.patch_embed(images()).flatten(1, 2) + model.pos_embed[:, 1:]
        x = model.blocks[0](x)
        windows = torch.stack([x[:, at : at + 3].amax(1) for at in range(0, 14, 2)], 1)
        x = windows + made.blocks[1].pos_embed
        for block in model.blocks[1:]:
            x = block(x)
        assert error(made(images()), model.head(model.norm(x.mean(1)))) < 1e-12
    assert windows.shape[1] == TokenPool.count(16) == 7
    fresh: Any = pooled(model, ["blocks.0"])
    assert not fresh.blocks[1].pos_embed.any()


def test_counts_are_the_published_ones() -> None:
    counts = [196]
    while TokenPool.count(counts[-1]) > 5:
        counts.append(TokenPool.count(counts[-1]))
    assert counts == [196, 97, 48, 23, 11]


def test_pools_come_ever_earlier_then_more_of_them() -> None:
    found = [[int(name[7:]) for name in after] for after in schedules([f"blocks.{i}" for i in range(12)])]
    assert found[:11] == [[i] for i in range(10, -1, -1)]
    assert found[11:15] == [[0, 6], [0, 5, 10], [0, 4, 8], [0, 3, 6, 9]]  # the published ones among them


def test_pools_save_what_merged_blocks_do_and_hardly_more() -> None:
    model = tiny(depth=4)
    for count in (2, 3):
        after = find_pools(model, count, SIZE)
        allowed = merged_macs(model, count, SIZE)
        assert count_costs(pooled(model, after), SIZE)[0].macs <= allowed
        order = list(schedules([f"blocks.{i}" for i in range(4)]))
        assert order.index(after) > 0
        less = order[order.index(after) - 1]  # of which each saves more than the one before
        assert count_costs(pooled(model, less), SIZE)[0].macs > allowed
    with pytest.raises(ValueError, match="pools do not save what 4 blocks merged do"):
        find_pools(tiny(depth=4, patch_size=32), 4, SIZE)  # one token


def test_pooled_models_come_back(tmp_path: Path) -> None:
    model = pooled(tiny(depth=4), ["blocks.0", "blocks.2"]).eval()
    again = updp_rt.load(updp_rt.save(model, tmp_path, input_size=SIZE))
    with torch.no_grad():
        assert torch.equal(again(images().float()), model(images().float()))
    arguments = read_manifest(tmp_path).model_args.given()
    assert {"class_token": False, "depth": 6, "global_pool": "avg"}.items() <= arguments.items()


@pytest.mark.parametrize(
    ("name", "what"),
    [("test_vit2", "a reg_token"), ("deit_tiny_distilled_patch16_224", "a dist_token")],
)
def test_models_with_other_tokens_are_refused(name: str, what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"hvt takes the mean of all tokens, and this model has {what}"):
        HVT().names(timm.create_model(name, depth=1))
