"""λ = 0 is the timm model, λ = 1 is the merged model: every family, variant, stride, body and form."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from torch import nn

from tests.conftest import relative_error
from tests.marks import slow
from updp_rt.blocks import check_model, make_progressive, merge_model, progressive_blocks, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize

BOUND = 1e-12

NARROW = (64, 32, 48, 40)

# (model, arguments, input size, which blocks): sizes are odd and small, so that borders are a large part.
VARIANTS = [
    slow("resnet18", {}, (3, 65, 97)),
    ("resnet18", {"norm_layer": partial(timm.layers.GroupNorm, num_groups=4)}, (3, 65, 65)),
    slow(
        "resnet34",
        {"channels": (64, 32, 48, 40), "in_chans": 1, "drop_path_rate": 0.1, "act_layer": nn.SiLU},
        (1, 75, 65),
    ),
    slow("mobilenetv2_100", {}, (3, 65, 97)),
    ("mobilenetv2_050", {"act_layer": nn.Hardswish}, (3, 75, 65)),
    slow("mobilenetv2_140", {"drop_path_rate": 0.1}, (3, 65, 65)),
    slow("convnext_atto", {}, (3, 97, 130)),
    slow("convnext_atto", {"conv_mlp": True, "ls_init_value": None}, (3, 99, 67)),
    ("convnext_atto", {"kernel_sizes": (5, 3, 7, 5), "drop_path_rate": 0.2}, (3, 97, 97)),
    slow("test_vit", {"img_size": (48, 80)}, (3, 48, 80)),
    ("test_vit", {"img_size": 48, "init_values": 1e-5, "drop_path_rate": 0.1}, (3, 48, 48)),
    slow("test_vit", {"img_size": 48, "class_token": False, "global_pool": "avg"}, (3, 48, 48)),
    ("test_vit", {"img_size": 48, "reg_tokens": 4, "qkv_bias": False}, (3, 48, 48)),
    slow("test_vit", {"img_size": 48, "act_layer": "relu"}, (3, 48, 48)),
    ("deit_tiny_distilled_patch16_224", {"img_size": (64, 48)}, (3, 64, 48)),
]


@pytest.mark.parametrize(("name", "arguments", "size"), VARIANTS, ids=lambda value: str(value)[:60])
def test_variants(name: str, arguments: dict, size: tuple[int, int, int]) -> None:
    verdict = check_model(timm.create_model(name, **arguments), input_size=size)
    assert verdict.lambda0_error <= BOUND
    assert verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_border <= BOUND
    assert verdict.merge_error_logits <= BOUND
    assert verdict.passed
    assert all(check.pruning_changes > 1e-3 for check in verdict.checks)


@pytest.mark.parametrize("name", ["resnet18", "test_vit", slow("mobilenetv2_050"), slow("convnext_atto")])
def test_each_block_alone(name: str) -> None:
    """One pruned block at a time: a wrong block cannot hide behind its neighbours."""
    model = randomize(timm.create_model(name, **_small(name))).double().eval()
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    subnet = make_progressive(model).eval()
    for index, block in enumerate(progressive_blocks(subnet).values()):
        randomize(block.norms, index)
    with torch.no_grad():
        baseline = model(x)
        assert relative_error(subnet(x), baseline) <= BOUND
        for block in prunable_blocks(model):
            set_lambda(subnet, 1.0, [block])
            pruned = subnet(x)
            assert relative_error(merge_model(subnet)(x), pruned) <= BOUND, block
            assert relative_error(pruned, baseline) > 1e-6, block


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto", "test_vit"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_lambda_runs_continuously_into_both_ends(name: str, end: float) -> None:
    """The ends skip what they don't need; just beside them everything is computed, and the difference is as small."""
    model = randomize(timm.create_model(name, **_small(name))).double().eval()
    subnet = make_progressive(model).eval()
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        set_lambda(subnet, end)
        there = subnet(x)
        differences = []
        for step in (1e-6, 1e-8):
            set_lambda(subnet, abs(end - step))
            differences.append(relative_error(subnet(x), there))
    assert 0 < differences[1] < 1e-4
    assert differences[1] < 0.1 * differences[0]


def test_resnet_offers_both_bodies() -> None:
    model = timm.create_model("resnet18").eval()
    kernels = {}
    for body in ("shrunk", "full"):
        subnet = make_progressive(model, {"layer1.0": body, "layer2.0": body})
        set_lambda(subnet, 1.0)
        merged = merge_model(subnet, {"layer1.0": "conv", "layer2.0": "conv"})
        kernels[body] = [merged.get_submodule(f"{name}.body").kernel_size for name in ("layer1.0", "layer2.0")]
    assert kernels == {"shrunk": [(3, 3), (3, 3)], "full": [(5, 5), (7, 7)]}


def _small(name: str) -> dict:
    return {"img_size": 48} if "vit" in name else {}
