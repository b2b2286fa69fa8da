"""A block whose pruned body is nothing: it fades away, and its input goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.conftest import relative_error
from tests.pruning.conftest import small_split
from updp_rt._copies import copy_model
from updp_rt.blocks import (
    make_progressive,
    merge_model,
    merge_origins,
    progressive_blocks,
    prunable_blocks,
    set_lambda,
    skippable_blocks,
    take_bodies,
)
from updp_rt.blocks.parts import SKIP
from updp_rt.blocks.randomize import randomize
from updp_rt.pruning.latency import BlockLatency, LatencyTable, measure_latency
from updp_rt.pruning.pipeline import merge_folder
from updp_rt.pruning.supernet import calibrate

MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 8, 12, 16)},
    "mobilenetv2_035": {},
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 8, 12, 16)},
    "deit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24},
}
# Some that change the shape of their input, or add nothing to it.
FIXED = {"resnet18": "layer2.0", "mobilenetv2_035": "blocks.1.0"}


def make(name: str) -> nn.Module:
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.1, **MODELS[name])
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model).double().eval()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_block_fades_until_its_input_is_left(name: str) -> None:
    model, x = make(name), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    skippable = skippable_blocks(model)
    seen = inputs_and_outputs(model, x)
    assert skippable == [block for block, (inside, outside) in seen.items() if inside.shape == outside.shape]
    chosen = skippable[:2]
    subnet = make_progressive(model, dict.fromkeys(chosen, SKIP)).eval()
    calibrate(subnet, x)
    assert relative_error(subnet(x), model(x)) < 1e-12
    block = progressive_blocks(subnet)[chosen[0]]
    inside, outside = seen[chosen[0]]
    block.lam = 0.25
    assert relative_error(block(inside), 0.75 * outside + 0.25 * inside) < 1e-12
    set_lambda(subnet, 1.0)
    assert torch.equal(block(inside), inside)
    without = copy_model(model)
    for each in chosen:
        without.set_submodule(each, nn.Identity())
    merged = merge_model(subnet)
    assert torch.equal(subnet(x), without(x))
    assert torch.equal(merged(x), without(x))
    assert relative_error(merged(x), model(x)) > 1e-3
    assert {block: tuple(origin) for block, origin in merge_origins(merged).items()} == dict.fromkeys(
        chosen, (SKIP, "identity")
    )
    with pytest.raises(ValueError, match="no merged form 'conv' of the 'skip' body; choose one of identity"):
        block.merge("conv")


def inputs_and_outputs(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each block that can be pruned."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = args[0], output

    names = prunable_blocks(model)
    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("name", "fixed"), FIXED.items())
def test_a_block_that_adds_no_input_is_refused(name: str, fixed: str) -> None:
    with pytest.raises(ValueError, match=rf"{fixed}: no pruned body 'skip'; choose one of"):
        make_progressive(make(name), {fixed: SKIP})


@torch.no_grad()
def test_it_is_a_body_that_a_block_may_be_offered() -> None:
    model, x = make("resnet18"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    supernet = make_progressive(model, ["layer1.1", "layer2.1"]).eval()
    for block in progressive_blocks(supernet).values():
        block.offer(("full", SKIP))
    calibrate(supernet, x)
    set_lambda(supernet, 1.0)
    take_bodies(supernet, {"layer1.1": SKIP, "layer2.1": "full"})
    without = copy_model(supernet)
    without.set_submodule("layer1.1", nn.Identity())
    assert torch.equal(supernet(x), without(x))
    assert relative_error(merge_model(supernet)(x), without(x)) < 1e-12
    take_bodies(supernet, {"layer1.1": "full"})
    assert relative_error(supernet(x), without(x)) > 1e-3


def test_the_table_offers_it_to_a_search_and_never_takes_it_by_itself() -> None:
    forms = {"shrunk": {"conv": 1.0}, "full": {"conv": 1.5}}
    blocks = {
        "a": BlockLatency(baseline_ms=2.0, merged_ms=forms, skippable=True),
        "b": BlockLatency(baseline_ms=2.0, merged_ms=forms),
    }
    table = LatencyTable(device="cpu", batch_size=1, model_ms=10.0, blocks=blocks)
    assert table.choose_bodies("ab") == {"a": "shrunk", "b": "shrunk"}
    assert table.choose_bodies("ab", SKIP) == {"a": SKIP, "b": "shrunk"}
    assert table.offer_bodies("ab", SKIP) == {"a": (SKIP,), "b": ("shrunk",)}
    assert table.offer_bodies("ab", "any") == {"a": ("shrunk", "full", SKIP), "b": ("shrunk", "full")}
    assert table.estimate_ms({"a": SKIP, "b": "full"}) == pytest.approx(10.0 - 2.0 - 0.5)
    assert table.choose_forms({"a": SKIP}) == {"a": "identity"}
    assert blocks["a"].form_ms(SKIP, "identity") == 0.0
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table
    measured = measure_latency(make("mobilenetv2_035"), torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert [name for name, block in measured.blocks.items() if block.skippable] == skippable_blocks(
        make("mobilenetv2_035")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035"])
def test_a_run_leaves_out_what_it_can_and_merges_the_rest(name: str, tmp_path: Path) -> None:
    model = make(name).float()
    count = len(skippable_blocks(model)) + 1
    result = updp_rt.prune(
        model,
        small_split("train", 16),
        small_split("val", 16),
        num_pruned=count,
        body=SKIP,
        trials=2,
        epochs=2,
        recalibration_batches=1,
        batch_size=8,
        out=tmp_path / "run",
        show_progress=False,
    )
    left_out = {block for block, body in result.pruned.items() if body == SKIP}
    assert left_out == set(result.pruned) & set(skippable_blocks(model))
    assert 0 < len(left_out) < count
    merged = updp_rt.load(result.folder / "merged")
    assert all(type(merged.get_submodule(block)) is nn.Identity for block in left_out)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(merged(images), result.subnet.eval()(images), rtol=1e-3, atol=1e-4)
    assert result.summary["predictions_that_differ"] == 0
    dense = updp_rt.load(merge_folder(result.folder, tmp_path / "dense", form="conv"))
    torch.testing.assert_close(dense(images), merged(images), rtol=1e-3, atol=1e-4)


def test_rivals_that_choose_in_their_own_way_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pruned body 'skip'; choose one of auto, any, shrunk, full"):
        updp_rt.prune(
            make("resnet18").float(),
            small_split("train", 16),
            small_split("val", 16),
            num_pruned=2,
            body=SKIP,
            method="drop",
            out=tmp_path / "run",
        )
