"""Costs of blocks and of their merged forms, against figures counted by hand."""

from __future__ import annotations

import pytest
import timm
import torch

from updp_rt.blocks import Cost, count_costs, count_depth, inspect, make_progressive, merge_model, set_lambda


def test_costs_of_a_resnet_block_by_hand() -> None:
    report = inspect(timm.create_model("resnet18"))
    block = {b.name: b for b in report.blocks}["layer1.0"]
    pixels = 56 * 56
    assert report.input_size == (3, 224, 224)
    assert block.cost.params == 2 * (64 * 64 * 9 + 2 * 64)
    assert block.cost.macs == 2 * pixels * 64 * 64 * 9
    assert block.merged["shrunk/conv"].macs == pixels * 64 * 64 * 9
    assert block.merged["full/conv"].params == 64 * 64 * 25 + 64
    # The factored form pads once, at its head: the first convolution also computes the ring.
    assert block.merged["full/factored"].macs == (58 * 58 + pixels) * 64 * 64 * 9
    assert block.merged["affine"] == Cost(params=64 * 64 + 64, macs=pixels * 64 * 64)
    assert block.merged["skip"] == Cost(params=0, macs=0)
    changes_shape = {b.name: b for b in report.blocks}["layer2.0"]
    assert "skip" not in changes_shape.merged
    assert changes_shape.merged["affine"].macs == 28 * 28 * 64 * 128


def test_costs_of_a_transformer_block_by_hand() -> None:
    report = inspect(timm.create_model("deit_tiny_patch16_224"))
    block, tokens, d = report.blocks[0], 197, 192
    attention = tokens * (3 * d * d + d * d) + 2 * tokens * tokens * d
    assert block.cost.macs == attention + 2 * tokens * d * 4 * d
    assert block.merged["linear"].macs == attention + tokens * d * d


@pytest.mark.slow
def test_reports_are_serialisable_and_follow_the_input_size() -> None:
    small = inspect(timm.create_model("mobilenetv2_050"), (3, 96, 96)).to_dict()
    large = inspect(timm.create_model("mobilenetv2_050")).to_dict()
    assert small["prunable"] == large["prunable"] == 17
    assert small["cost"]["params"] == large["cost"]["params"]
    assert 5 * small["cost"]["macs"] < large["cost"]["macs"]


def test_depth_counts_layers_with_weights() -> None:
    model = timm.create_model("deit_tiny_patch16_224")
    assert count_depth(model) == 1 + 12 * 4 + 1
    subnet = make_progressive(model, ["blocks.0", "blocks.1"])
    set_lambda(subnet, 1.0)
    assert count_depth(merge_model(subnet)) == count_depth(model) - 2


def test_counting_leaves_the_model_where_it_is() -> None:
    model = timm.create_model("test_vit3")
    total, costs = count_costs(model, (3, 160, 160))
    assert total.macs == costs[""].macs > 0
    assert {p.device for p in model.parameters()} == {torch.device("cpu")}
    assert all(p.requires_grad for p in model.parameters())


def test_costs_of_a_model_in_training_are_those_of_its_eval_mode() -> None:
    """A batch of one has no statistics where maps are of one pixel."""
    model = timm.create_model("test_resnet").train()
    found = count_costs(model, (3, 32, 32))
    assert model.training
    assert found == count_costs(model.eval(), (3, 32, 32))
