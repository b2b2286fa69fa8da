"""Whole runs of every rival, tiny: as many blocks as asked, resumed, merged or left out exactly, saved and loaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

import updp_rt
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import UnsupportedModelError, merge_model, progressive_blocks, prunable_blocks, set_lambda
from updp_rt.blocks.affine import least_squares
from updp_rt.blocks.randomize import randomize
from updp_rt.data import load_splits
from updp_rt.methods import drop, find_method
from updp_rt.pruning import PruneConfig

pytestmark = pytest.mark.usefixtures("untimed")

RIVALS = ("drop", "depthshrinker", "layer-folding", "toast")  # test_attention.py has those of transformers alone
SETTINGS: dict[str, Any] = {
    "supernet_epochs": 1,
    "trials": 2,
    "epochs": 1,
    "batch_size": 8,
    "recalibration_batches": 1,
    "num_pruned": 2,
}


@cache
def digits() -> tuple[Dataset[Any], Dataset[Any]]:
    """Zeros, ones and twos, to train on and to choose by."""
    splits = load_splits("digits", (3, 32, 32)).first(80, 40)
    train, val = (Subset(data, [i for i in range(len(data)) if data[i][1] < 3]) for data in (splits.train, splits.val))
    return train, val


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    narrow = {"channels": (8, 8, 12, 16)} if name == "resnet18" else {"img_size": 32} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=3, **narrow)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model)


def run_method(folder: Path, method: str, model: nn.Module, **settings: Any) -> updp_rt.PruneResult:
    return updp_rt.prune(
        model, *digits(), out=folder, show_progress=False, **{**SETTINGS, "method": method, **settings}
    )


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("drop", "resnet18"),
        ("depthshrinker", "resnet18"),
        ("layer-folding", "test_vit"),
        ("toast", "test_vit"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("drop", "test_vit"),
                ("depthshrinker", "test_vit"),
                ("layer-folding", "resnet18"),
                ("toast", "resnet18"),
            )
        ),
    ],
)
def test_a_run_ends_with_a_model_that_computes_what_its_subnet_does(tmp_path: Path, method: str, family: str) -> None:
    model = made(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = run_method(tmp_path / "run", method, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(result.pruned) == 2
    assert set(result.pruned) <= set(prunable_blocks(model))
    summary = result.summary
    assert summary["predictions_that_differ"] == 0
    assert set(summary["blocks"]) == set(result.pruned)
    assert summary["merged"]["params"] < summary["baseline"]["params"]
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        merged, subnet = result.merge().double(), result.subnet.double()
        wanted = subnet(images.double())
        assert float((merged(images.double()) - wanted).abs().max() / wanted.abs().max()) < 1e-5  # stored in float32
        loaded = updp_rt.load(tmp_path / "run" / "merged")
        assert torch.allclose(loaded.double()(images.double()), merged(images.double()), rtol=1e-6, atol=1e-7)
    assert read_manifest(tmp_path / "run" / "merged").accuracy == summary["merged"]["accuracy"]
    assert result.search.chosen.latency_ms > 0
    assert (tmp_path / "run" / "history.csv").exists() == find_method(method).trains
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["method"] == method


@pytest.mark.parametrize("method", RIVALS)
def test_merged_is_masked_in_float64(method: str) -> None:
    """On randomised norms, within 1e-12 of the largest logit."""
    model = made("test_convnext").double().eval()
    names = prunable_blocks(model)[1:3]
    body = {"drop": "nothing", "toast": "map"}.get(method, "full")
    rival = find_method(method)
    subnet = rival.subnet(model, dict.fromkeys(names, body)).double().eval()
    for index, block in enumerate(progressive_blocks(subnet).values()):
        randomize(block.norms, index)
    set_lambda(subnet, 1.0)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        wanted = subnet(images)
        found = rival.merge(subnet, lambda bodies: dict.fromkeys(bodies, "factored"))(images)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-12
        assert not torch.allclose(wanted, model(images), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["layer-folding", "drop", "wdpruning", "s2vite"])
def test_a_run_that_is_stopped_ends_the_same(tmp_path: Path, method: str) -> None:
    whole = run_method(tmp_path / "whole", method, made("test_vit"), epochs=2)
    for stage in ("supernet", "search"):
        run_stage(tmp_path / "parts", method, stage)
    again = run_method(tmp_path / "parts", method, made("test_vit"), epochs=2)
    assert again.pruned == whole.pruned
    states = [result.subnet.state_dict() for result in (whole, again)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def run_stage(folder: Path, method: str, stage: str) -> None:
    from updp_rt.pruning import Run
    from updp_rt.pruning.pipeline import run_stages

    config = PruneConfig.model_validate({**SETTINGS, "method": method, "epochs": 2})
    run_stages(Run(made("test_vit"), *digits(), folder, config, show_progress=False), (stage,))


def test_another_method_is_another_run(tmp_path: Path) -> None:
    run_method(tmp_path / "run", "toast", made("test_vit"))
    with pytest.raises(ValueError, match="method: 'drop' now, 'toast' there"):
        run_method(tmp_path / "run", "drop", made("test_vit"))
    with pytest.raises(ValueError, match="no method 'magic'; choose one of updp, drop, depthshrinker, layer-folding"):
        run_method(tmp_path / "other", "magic", made("test_vit"))
    with pytest.raises(ValueError, match="the method drop prunes a number of blocks: give num_pruned"):
        run_method(tmp_path / "other", "drop", made("test_vit"), num_pruned=None, max_latency=0.9)
    with pytest.raises(ValueError, match="the method drop chooses blocks in its own way: leave out search"):
        run_method(tmp_path / "other", "drop", made("test_vit"), search="dp")
    with pytest.raises(ValueError, match="the method dp keeps to a latency: give num_pruned or target_speedup"):
        run_method(tmp_path / "other", "dp", made("resnet18"), num_pruned=None, front=True)


def test_drop_leaves_out_what_is_missed_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("test_vit")
    names = prunable_blocks(model)
    missed = dict(zip(names, (0.9, 0.2, 0.7, 0.8, 0.1, 0.6), strict=True))

    def missing(run: Any, without: nn.Module) -> float:
        (gone,) = [name for name in names if type(without.get_submodule(name)) is nn.Identity]
        return missed[gone]

    monkeypatch.setattr(drop, "missing", missing)
    result = run_method(tmp_path / "run", "drop", model)
    assert list(result.pruned) == ["blocks.1", "blocks.4"]
    assert all(type(result.merge().get_submodule(name)) is nn.Identity for name in result.pruned)


def test_what_is_missed_is_cross_entropy_with_fresh_statistics() -> None:
    model = made("resnet18")
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    batches: Any = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    run: Any = SimpleNamespace(device="cpu", recalibration_batches=[images], val_loader=batches)
    found = drop.missing(run, model)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
        wanted = nn.functional.cross_entropy(model.eval()(images), labels)
    assert found == pytest.approx(float(wanted), rel=1e-4)


def test_blocks_that_change_the_shape_cannot_go() -> None:
    resnet = timm.create_model("resnet18")
    assert find_method("drop").names(resnet) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    with pytest.raises(ValueError, match="num_pruned is 6, but this model has 5 prunable blocks"):
        find_method("drop").check(resnet, PruneConfig.model_validate({"num_pruned": 6}))
    with pytest.raises(UnsupportedModelError):
        find_method("drop").names(timm.create_model("resnet50"))


def test_toast_is_exact_where_blocks_are_linear() -> None:
    """The fit finds a map that is there, also beside a large mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 7, generator=generator, dtype=torch.float64) * 3 + 40
    weight, bias = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    found, shift, left = least_squares(x, x @ weight.T + bias)
    assert left < 1e-9
    assert torch.allclose(found, weight, atol=1e-4)
    assert torch.allclose(x @ found.T + shift, x @ weight.T + bias, atol=1e-3)


def test_toast_maps_strided_blocks_and_leaves_none_of_what_is_linear() -> None:
    """Blocks without activations are maps where their kernels are 1x1; the fit then finds the baseline again."""
    model = made("resnet18").double().eval()
    names = prunable_blocks(model)[2:5]
    for name in names:
        block: Any = model.get_submodule(name)
        block.act1 = block.act2 = nn.Identity()
        block.conv1.weight.data *= torch.eye(3)[1].outer(torch.eye(3)[1])  # centre taps alone
        block.conv2.weight.data *= torch.eye(3)[1].outer(torch.eye(3)[1])
    images = torch.randn(64, 3, 32, 32, dtype=torch.float64)
    toast = find_method("toast")
    subnet = toast.subnet(model, dict.fromkeys(names, "map"))
    run: Any = SimpleNamespace(model=model, names=names, device="cpu", training_images=lambda count: images[:count])
    toast.prepare(run, subnet)
    strides = {name: subnet.get_submodule(name).stride for name in names}
    assert strides == {names[0]: (2, 2), names[1]: (1, 1), names[2]: (2, 2)}
    with torch.no_grad():
        wanted = model(images)
        assert float((subnet(images) - wanted).abs().max() / wanted.abs().max()) < 1e-2  # the ridge


def test_merging_shared_with_updp_gives_the_same_model() -> None:
    """Rivals that remove activations have no merge of their own."""
    model = made("test_vit").eval()
    names = prunable_blocks(model)[:2]
    subnet = find_method("depthshrinker").subnet(model, dict.fromkeys(names, "full"))
    set_lambda(subnet, 1.0)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = find_method("depthshrinker").merge(subnet, lambda bodies: dict.fromkeys(bodies, "linear"))
        assert torch.equal(found(images), merge_model(subnet)(images))
