"""Models whose channels were pruned first: their depth is pruned, profiled and reported as any other's."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import updp_rt
from tests.pruning.conftest import small_model, small_split
from tests.pruning.test_pipeline import QUICK, table
from tests.report.html import read_html
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import find_family, make_progressive, set_lambda
from updp_rt.channels import Selecting, Selection, select_input
from updp_rt.channels.sizes import replace_tensor
from updp_rt.pruning import stages
from updp_rt.pruning.latency import block_inputs, measure_block, measure_latency
from updp_rt.pruning.pipeline import merge_folder
from updp_rt.report import profile
from updp_rt.report.collect import collect
from updp_rt.report.page import render
from updp_rt.report.strips import find_strips
from updp_rt.runtime.table import forget_tables

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "kept"), [("conv1", range(0, 64, 2)), ("conv2", range(5, 50)), ("downsample.0", [7])]
)
def test_a_block_that_selects_channels_is_measured_and_merged(layer: str, kept: list[int]) -> None:
    """A selection in front of a convolution is zeros in its weight."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4).eval()
    name = "layer2.0"
    block = model.get_submodule(name)
    conv = block.get_submodule(layer)
    replace_tensor(conv, "weight", conv.weight.detach()[:, list(kept)])
    select_input(conv, Selection.gather(1, list(kept), 128 if layer == "conv2" else 64))
    assert isinstance(conv, Selecting)
    report = {b.name: b.reason for b in updp_rt.inspect(model, (3, 32, 32)).blocks}
    assert report[name] is None
    x = block_inputs(model, [name], IMAGES)[name]
    progressive = find_family(model).progressive
    measured = measure_block(progressive, block, x, lambda module, _: module)
    assert measured.merged_ms.keys() == {"shrunk", "full"}
    subnet = make_progressive(model.double(), {name: "full"}).eval()
    with torch.no_grad():
        torch.testing.assert_close(subnet(IMAGES.double()), model(IMAGES.double()), rtol=1e-12, atol=1e-12)
        set_lambda(subnet, 1.0)
        pruned = subnet.get_submodule(name)
        torch.testing.assert_close(pruned.merge()(x.double()), pruned(x.double()), rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT whose channels, then depth were pruned."""
    narrow = updp_rt.prune_channels(small_model().eval(), IMAGES, amount=0.3).model
    folder = tmp_path_factory.mktemp("narrow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "measure_latency", table)
        data = small_split("train", 32), small_split("val", 16)
        updp_rt.prune(narrow, *data, num_pruned=2, out=folder, **{**QUICK, "batch_size": 16}, show_progress=False)
    return folder


@pytest.mark.slow
def test_channels_then_depth(run: Path, tmp_path: Path) -> None:
    merged = updp_rt.load(run / "merged")
    again = updp_rt.load(merge_folder(run, tmp_path / "again"))
    with torch.no_grad():
        assert torch.equal(merged(IMAGES), again(IMAGES))
    channels = read_manifest(run / "merged").channels
    assert channels is not None
    assert channels.shapes


def test_latencies_of_narrow_models_are_measured() -> None:
    narrow = updp_rt.prune_channels(small_model().eval(), IMAGES, amount=0.3).model
    assert len(measure_latency(narrow, IMAGES).blocks) == 6


@pytest.fixture
def _own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    forget_tables()


@pytest.mark.slow
@pytest.mark.usefixtures("_own_tables")
def test_a_run_that_started_narrow_is_compared_with_what_it_started_from(run: Path) -> None:
    found = profile(run, engine="modules")
    assert found.input == (16, 3, 32, 32)
    parts = collect(run)
    start = updp_rt.prune_channels(small_model().eval(), IMAGES, amount=0.3).model
    assert parts.structure.cost == updp_rt.inspect(start, (3, 32, 32)).cost
    _, missing = render(parts)
    assert [part for part, _ in missing] == ["training of the supernet", "certificate"]  # which had no epochs


@pytest.mark.usefixtures("_own_tables")
def test_a_narrow_saved_model_is_profiled_and_reported(tmp_path: Path) -> None:
    """Its blocks see fewer channels than timm's, which it is compared with; the strip shows what that saves."""
    torch.manual_seed(0)
    source = timm.create_model("test_efficientnet", num_classes=4).eval()
    narrow = updp_rt.prune_channels(source, IMAGES, amount=0.5).model
    folder = updp_rt.save(narrow, tmp_path / "narrow", input_size=(3, 32, 32))
    parts = collect(folder)
    costs = {b.name: b.cost.macs for b in parts.structure.blocks}
    assert all(0 < parts.costs[name].macs <= macs for name, macs in costs.items())
    strips = find_strips(parts)
    assert {block.name: block.sizes for block in strips.blocks} == {
        name: (macs / 1e6, parts.costs[name].macs / 1e6) for name, macs in costs.items()
    }
    assert any(before > after for before, after in (block.sizes for block in strips.blocks))
    found = profile(folder, batch_size=2, engine="modules")
    assert set(found.blocks) == set(costs)
    read_html(render(collect(folder))[0])
