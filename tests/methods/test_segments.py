"""Segments of blocks: masked is merged, what may be left out and joined; tiny runs of `dp` and `layermerge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import updp_rt
from tests.methods.test_runs import digits, made
from updp_rt.blocks import UnsupportedModelError, make_progressive, progressive_blocks, prunable_blocks, set_lambda
from updp_rt.blocks.parts import Part
from updp_rt.blocks.randomize import randomize
from updp_rt.blocks.segments import Segment, make_segments, neighbours, passing, reducible
from updp_rt.methods import dp, find_method, tables
from updp_rt.methods.layermerge import LayerMerge, reached_size
from updp_rt.methods.tables import Row, SegmentTable
from updp_rt.pruning import PruneConfig, RunError, latency, stages
from updp_rt.pruning.programming import Entry

RESNET = {
    "layer1.0": "full",
    "layer1.1": "+full-conv1",  # one convolution of two blocks
    "layer2.0": "|shrunk",  # no activation between, but a convolution of its own
    "layer2.1": "+full",
    "layer3.0": "+shrunk",  # strided, within
    "layer4.0": "shrunk",  # alone: any family's merge
    "layer4.1": "full-conv1-conv2",  # nothing is left but norms and the skip
}
MOBILENET = {"blocks.1.1": "full", "blocks.2.0": "+full", "blocks.2.1": "+full-conv_dw", "blocks.2.2": "|full"}
CONVNEXT = {"stages.2.blocks.0": "full", "stages.2.blocks.1": "+full-conv_dw"}


@pytest.mark.parametrize(
    ("method", "name", "bodies"),
    [
        ("dp", "resnet18", RESNET),
        ("dp", "mobilenetv2_035", MOBILENET),
        ("layermerge", "test_convnext", CONVNEXT),
        ("layermerge", "resnet18", RESNET),
    ],
)
def test_merged_is_masked(method: str, name: str, bodies: dict[str, str], tmp_path: Path) -> None:
    """In float64 within 1e-12, borders apart: whole models on images of odd sizes."""
    model = made(name).double().eval()
    rival = find_method(method)
    subnet = rival.subnet(model, bodies)
    for index, block in enumerate(progressive_blocks(subnet).values()):
        randomize(block.norms, index)
    subnet = rival.finish(subnet).eval()
    merged = rival.merge(subnet, lambda plain: dict.fromkeys(plain, "conv"))
    segments = {key: module for key, module in subnet.named_modules() if isinstance(module, Segment)}
    images = torch.randn(2, 3, 45, 52, dtype=torch.float64)
    seen: dict[str, torch.Tensor] = {}
    for key, module in segments.items():
        module.register_forward_hook(lambda _, args, output, key=key: seen.update({f"{key} in": args[0], key: output}))
    with torch.no_grad():
        wanted = subnet(images)
        assert float((merged(images) - wanted).abs().max() / wanted.abs().max()) < 1e-12
        for key in segments:
            found, scale = merged.get_submodule(key)(seen[f"{key} in"]), seen[key].abs().max()
            difference = (found - seen[key]).abs()
            border = torch.ones_like(difference, dtype=torch.bool)
            border[:, :, 1:-1, 1:-1] = False
            assert float(difference[border].max() / scale) < 1e-12, f"{key}: border"
            assert difference[~border].numel() == 0 or float(difference[~border].max() / scale) < 1e-12, key
        assert not torch.allclose(wanted, model(images), rtol=1e-3)
        again = updp_rt.load(updp_rt.save(merged, tmp_path / "merged"))
        assert torch.equal(again(images), merged(images))
    convs = {key: [m for m in merged.get_submodule(key) if isinstance(m, nn.Conv2d)] for key in segments}
    assert all(len(convs[key]) == len(segments[key].pieces()) for key in segments)
    origins = rival.origins(merged, bodies)
    assert {key for key, origin in origins.items() if origin.form == "joined"} == {
        key for key in bodies if type(merged.get_submodule(key)) is nn.Identity
    }


def test_activations_within_a_segment_are_gone_and_one_closes_it() -> None:
    """Without norms that shift, a segment of negative sums is its closing activation's zero, and linear before."""
    model = resnet().double().eval()
    segment = make_segments(model, {"layer1.0": "full", "layer1.1": "+full"}).get_submodule("layer1.0")
    assert isinstance(segment, Segment)
    set_lambda(segment, 1.0)
    act = segment.blocks[-1].block.act2
    segment.blocks[-1].block.act2 = nn.Identity()
    one, other = torch.randn(2, 1, 64, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        both = segment(one + other) + segment(torch.zeros_like(one))
        assert torch.allclose(both, segment(one) + segment(other), rtol=1e-10, atol=1e-12)
        linear = segment(one)
        segment.blocks[-1].block.act2 = act
        assert torch.equal(segment(one), linear.relu())


def test_parts_are_told_as_text() -> None:
    for part in (Part("full"), Part("shrunk", "+"), Part("full", "|", ("conv1", "conv2")), Part("full", "", ("a",))):
        assert Part.parse(str(part)) == part
    assert str(Part("full", "+", ("conv1",))) == "+full-conv1"


def test_a_convolution_left_out_passes_its_input_and_does_not_learn() -> None:
    conv = nn.Conv2d(6, 6, 3, padding=1)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(passing(conv)(x), x)
    assert not any(parameter.requires_grad for parameter in passing(conv).parameters())


def resnet() -> nn.Module:
    """As wide at its first block as at its stem, so that both convolutions of both first blocks keep the shape."""
    return timm.create_model("resnet18", num_classes=3, channels=(64, 8, 12, 16))


def blocks_of(model: nn.Module) -> dict[str, Any]:
    return progressive_blocks(make_progressive(model, dict.fromkeys(prunable_blocks(model), "full")))


def test_what_may_be_left_out() -> None:
    residual, mobilenet = blocks_of(resnet()), blocks_of(made("mobilenetv2_035"))
    assert list(reducible(residual["layer1.0"])) == ["conv1", "conv2"]
    assert list(reducible(residual["layer2.0"])) == ["conv2"]  # the first is strided
    assert list(reducible(mobilenet["blocks.2.1"])) == ["conv_dw"]
    assert list(reducible(mobilenet["blocks.2.0"])) == []
    assert list(reducible(blocks_of(made("test_convnext"))["stages.0.blocks.0"])) == ["conv_dw"]
    with pytest.raises(UnsupportedModelError, match="have none that keeps its input's shape: give a ResNet"):
        find_method("layermerge").names(made("test_vit"))


def test_one_entry_a_reachable_kernel_which_keeps_the_largest_weights() -> None:
    """Two ResNet blocks reach 1, 3, 5, 7 and 9; the kernels of each entry's merge are of these sizes."""
    found = blocks_of(resnet())
    blocks = [found["layer1.0"], found["layer1.1"]]
    weights = {(0, "conv1"): 1.0, (0, "conv2"): 5.0, (1, "conv1"): 3.0, (1, "conv2"): 2.0}
    for (index, conv), size in weights.items():
        nn.init.constant_(getattr(blocks[index].block, conv).weight, size)
    ways = LayerMerge().ways(blocks)
    assert sorted(reached_size(blocks, way) for way in ways) == [(k, k) for k in (1, 3, 5, 7, 9)]
    kept = {reached_size(blocks, way)[0]: {key for key in weights if key[1] not in way[key[0]]} for way in ways}
    assert kept[3] == {(0, "conv2")}
    assert kept[5] == {(0, "conv2"), (1, "conv1")}
    strided = [found["layer2.0"], found["layer2.1"]]
    assert sorted(reached_size(strided, way)[0] for way in LayerMerge().ways(strided)) == [3, 7, 11, 15]
    for way in LayerMerge().ways(strided):
        bodies = {b.name: str(Part("full", "+" if i else "", way[i])) for i, b in enumerate(strided)}
        segment = make_segments(resnet(), bodies).get_submodule("layer2.0")
        set_lambda(segment, 1.0)
        assert segment.merge()[0].kernel_size == reached_size(strided, way)


def test_neighbours_take_nothing_between_them() -> None:
    images = torch.randn(1, 3, 32, 32)
    model: Any = resnet()
    names = prunable_blocks(model)
    assert neighbours(model, names, images) == set(names[1:])
    model.layer2.insert(1, nn.ReLU(inplace=True))  # the same tensor, another value
    names = prunable_blocks(model)
    assert "layer2.2" not in neighbours(model, names, images)
    convnext = made("test_convnext")
    follow = neighbours(convnext, prunable_blocks(convnext), images)
    assert "stages.2.blocks.1" in follow
    assert not any(name.endswith("blocks.0") for name in follow)  # a norm and a convolution come before


def test_dp_values_activations_and_layermerge_segments() -> None:
    rows = [(0, 0, 0.6), (1, 1, 0.7), (0, 1, 0.5)]
    table = SegmentTable(
        run={}, rows=[Row(first=a, last=b, bodies={}, ms=1.0, accuracy=c) for a, b, c in rows], accuracy=0.8
    )
    values, layer = find_method("dp").worth(table)  # type: ignore[attr-defined]
    bonus = dp.ALPHA * (0.2 + 0.1) / 2
    assert layer == pytest.approx(bonus)
    assert values == pytest.approx([bonus - 0.2, bonus - 0.1, bonus - 0.3])
    values, layer = find_method("layermerge").worth(table)  # type: ignore[attr-defined]
    assert layer == 1.0
    assert values == pytest.approx(torch.tensor([-0.2, -0.1, -0.3]).exp().tolist())


@pytest.fixture
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged forms take half of what they are compared with, and whole models 20 ms: nothing is timed."""

    def times(calls: dict[str, object], **how: object) -> dict[str, float]:
        return {name: 20e-3 if name == "model" else 1e-3 / (1 + (index > 0)) for index, name in enumerate(calls)}

    for module in (latency, stages, tables):
        monkeypatch.setattr(module, "time_side_by_side", times)


def small() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3, channels=(8, 8, 12, 16), layers=(2, 1, 1, 1))
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model)


def run(folder: Path, method: str, **settings: Any) -> updp_rt.PruneResult:
    given = {"supernet_epochs": 1, "epochs": 1, "batch_size": 8, "recalibration_batches": 1, "num_pruned": 2}
    return updp_rt.prune(small(), *digits(), out=folder, show_progress=False, **{**given, "method": method, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dp", "layermerge"])
@pytest.mark.usefixtures("_untimed")
def test_a_run_keeps_to_its_latency_merges_and_is_stored(tmp_path: Path, method: str) -> None:
    result = run(tmp_path / "run", method)
    assert result.search.chosen.latency_ms <= 20 - 2 * 0.5 + 1e-9
    assert set(result.pruned) == set(result.search.chosen.blocks)
    assert result.summary["predictions_that_differ"] == 0
    rows = json.loads((tmp_path / "run" / "segments.json").read_text())["rows"]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert {(row["first"], row["last"]) for row in rows} >= {(i, i) for i in range(5)} | {(0, 1), (0, 2)}
    loaded = updp_rt.load(tmp_path / "run" / "merged")
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded(images), result.merge()(images), rtol=1e-5, atol=1e-6)
        assert torch.allclose(loaded(images), result.subnet(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("_untimed")
def test_joined_blocks_are_stored_and_a_stopped_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of a search that stops holds what was judged; the same command judges the rest only."""
    judged: list[int] = []

    def judge(run: Any, model: nn.Module, steps: int) -> float:
        judged.append(sum(len(m.blocks) for m in model.modules() if isinstance(m, Segment)))
        if len(judged) == 4:
            raise RunError("stopped")
        return 0.5 + 0.1 * judged[-1]  # the longer the better

    monkeypatch.setattr(tables, "judge", judge)
    with pytest.raises(RunError, match="stopped"):
        run(tmp_path / "run", "dp")
    result = run(tmp_path / "run", "dp")
    assert result.search.chosen.latency_ms <= 20 - 2 * 0.5 + 1e-9
    assert len(judged) == 1 + 1 + len(json.loads((tmp_path / "run" / "segments.json").read_text())["rows"])
    assert any(body.startswith("+") for body in result.pruned.values())
    merged = updp_rt.load(tmp_path / "run" / "merged")
    assert any(type(merged.get_submodule(name)) is nn.Identity for name in result.pruned)
    assert result.summary["merged"]["depth"] < result.summary["baseline"]["depth"] - len(result.pruned)


def test_a_number_of_blocks_becomes_what_so_many_save_in_the_mean() -> None:
    blocks = {
        name: latency.BlockLatency(baseline_ms=4.0, merged_ms={"full": {"conv": ms}})
        for name, ms in zip("abc", (1.0, 2.0, 5.0), strict=True)
    }
    table = latency.LatencyTable(device="cpu", batch_size=1, model_ms=15.0, blocks=blocks)
    assert dp.allowed_ms(PruneConfig.model_validate({"num_pruned": 3}), table) == pytest.approx(10.0)
    assert dp.allowed_ms(PruneConfig.model_validate({"max_latency": 0.5}), table) == pytest.approx(7.5)
    assert Entry(0, 0, 1.0, 0.0).key == ""  # a block that is kept
