"""A block whose pruned body is one affine map, fitted to the block in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import updp_rt
from tests.blocks.test_skip import MODELS, inputs_and_outputs, make
from tests.conftest import relative_error
from tests.pruning.conftest import small_split
from updp_rt._copies import copy_model
from updp_rt.blocks import make_progressive, merge_model, merge_origins, progressive_blocks, set_lambda, take_bodies
from updp_rt.blocks.affine import TO_INPUT, affine_layer, fit_affine, least_squares
from updp_rt.blocks.parts import AFFINE, SKIP
from updp_rt.pruning.latency import BlockLatency, LatencyTable, measure_latency
from updp_rt.pruning.supernet import calibrate


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_block_fades_into_the_map_that_is_closest_to_it(name: str) -> None:
    model, x = make(name), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    seen = inputs_and_outputs(model, x)
    chosen = list(seen)
    subnet = make_progressive(model, dict.fromkeys(chosen, AFFINE)).eval()
    calibrate(subnet, x)
    assert relative_error(subnet(x), model(x)) < 1e-12
    for key, block in progressive_blocks(subnet).items():
        inside, outside = seen[key]
        layer = block.norms[AFFINE]
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        fitted = layer(inside)
        assert fitted.shape == outside.shape
        error = (fitted - outside).square().sum()
        for parameter in layer.parameters():
            change = 0.01 * torch.randn_like(parameter)
            for way in (change, -change):
                parameter.add_(way)
                # On as few pixels as these there may be many maps that are exact but for the ridge.
                assert (layer(inside) - outside).square().sum() >= error * (1 - 1e-9), key
                parameter.sub_(way)
        closed = outside.relu() if name == "resnet18" else None
        wanted = fitted if closed is None else fitted.relu()
        block.lam = 0.25
        assert relative_error(block(inside), 0.75 * outside + 0.25 * wanted) < 1e-12
    set_lambda(subnet, 1.0)
    merged = merge_model(subnet)
    assert relative_error(merged(x), subnet(x)) < 1e-12
    assert relative_error(merged(x), model(x)) > 1e-6
    assert {block: tuple(origin) for block, origin in merge_origins(merged).items()} == dict.fromkeys(
        chosen, (AFFINE, "pointwise")
    )
    with pytest.raises(ValueError, match="no merged form 'conv' of the 'affine' body; choose one of pointwise"):
        progressive_blocks(subnet)[chosen[0]].merge("conv")


@torch.no_grad()
def test_it_is_a_body_that_a_block_may_be_offered() -> None:
    model, x = make("resnet18"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    supernet = make_progressive(model, ["layer1.1", "layer2.0"]).eval()
    progressive_blocks(supernet)["layer1.1"].offer(("full", AFFINE, SKIP))
    progressive_blocks(supernet)["layer2.0"].offer(("shrunk", AFFINE))
    calibrate(supernet, x)
    set_lambda(supernet, 1.0)
    for first, second in (("full", AFFINE), (AFFINE, "shrunk"), (SKIP, AFFINE)):
        take_bodies(supernet, {"layer1.1": first, "layer2.0": second})
        merged = merge_model(supernet)
        assert relative_error(merged(x), supernet(x)) < 1e-12
        assert {block: origin.body for block, origin in merge_origins(merged).items()} == {
            "layer1.1": first,
            "layer2.0": second,
        }
    assert relative_error(merge_model(copy_model(supernet))(x), supernet(x)) < 1e-12


def test_the_fit_leaves_what_no_map_can_say() -> None:
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(70_000, 5, generator=generator, dtype=torch.float64) + 40  # more rows than a part of them
    noise = torch.randn(70_000, 2, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    y = x @ weight.T + noise
    found, bias, left = least_squares(x, y)
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), y).solution
    assert relative_error(found, exact[:-1].T) < 1e-5
    assert relative_error(x @ found.T + bias, x @ exact[:-1] + exact[-1]) < 1e-5
    assert left == pytest.approx(float((x @ found.T + bias - y).square().sum() / (y - y.mean(0)).square().sum()))
    constant = torch.full((6, 2), 3.0)
    found, bias, left = least_squares(torch.randn(6, 4), constant)
    assert (float(found.abs().max()), bias.tolist(), left) == (0.0, [3.0, 3.0], 0.0)


def test_of_few_rows_a_block_that_adds_is_taken_for_nearly_its_input() -> None:
    """What it adds is noise: the plain fit learns it by heart, the ridge draws to the identity and does not."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(12, 10, 16, generator=generator, dtype=torch.float64) * torch.logspace(-2, 2, 16) + 5
    y = x + torch.randn(x.shape, generator=generator, dtype=torch.float64) * torch.logspace(-2, 2, 16)
    far = []
    for adds in (True, False):
        layer = nn.Linear(16, 16).double()
        assert fit_affine(layer, x, y, adds=adds) < 1
        scaled = layer.weight.detach() * torch.logspace(-2, 2, 16) / torch.logspace(-2, 2, 16)[:, None]
        far.append(float((scaled - torch.eye(16)).norm()))
    assert far[0] < 0.95 * far[1]


def test_no_channels_scale_matters() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor([1.0, 1e3, 1e-3, 1.0], dtype=torch.float64)
    found, bias, left = least_squares(x, y, TO_INPUT)
    scaled, same_bias, same_left = least_squares(x * scale, y, TO_INPUT)
    assert relative_error(scaled * scale, found) < 1e-3
    assert relative_error(same_bias, bias) < 1e-3
    assert same_left == pytest.approx(left, rel=1e-4)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [7, 8])
@torch.no_grad()
def test_a_strided_map_sees_the_pixel_under_each_of_its_own(stride: int | tuple[int, int], size: int) -> None:
    conv = nn.Conv2d(3, 5, 3, stride=stride, padding=1).double()
    conv.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    layer = affine_layer([conv])
    x = torch.randn(9, 3, size, size, dtype=torch.float64)
    assert fit_affine(layer, x, conv(x)) < 1e-10
    assert relative_error(layer(x), conv(x)) < 1e-4


def test_the_table_times_it_and_offers_it_to_a_search_alone() -> None:
    forms = {"shrunk": {"conv": 1.0}, "full": {"conv": 1.5}}
    blocks = {
        "a": BlockLatency(baseline_ms=2.0, merged_ms=forms, skippable=True, affine_ms=0.4),
        "b": BlockLatency(baseline_ms=2.0, merged_ms=forms, affine_ms=2.5),
        "d": BlockLatency(baseline_ms=2.0, merged_ms=forms, affine_ms=0.4),
        "c": BlockLatency(baseline_ms=2.0, merged_ms=forms),  # of tables that were stored before
    }
    table = LatencyTable(device="cpu", batch_size=1, model_ms=10.0, blocks=blocks)
    assert table.choose_bodies("abcd") == dict.fromkeys("abcd", "shrunk")
    assert table.choose_bodies("ab", AFFINE) == {"a": AFFINE, "b": AFFINE}
    assert table.offer_bodies("abcd", "any") == {
        "a": ("shrunk", "full", SKIP),  # what can be left out need not be a map
        "b": ("shrunk", "full"),
        "c": ("shrunk", "full"),
        "d": ("shrunk", "full", AFFINE),
    }
    assert table.estimate_ms({"a": AFFINE, "b": "full"}) == pytest.approx(10.0 - 1.6 - 0.5)
    assert table.choose_forms({"a": AFFINE}) == {"a": "pointwise"}
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table
    measured = measure_latency(make("resnet18"), torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert all(block.affine_ms is not None and block.affine_ms > 0 for block in measured.blocks.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_run_prunes_to_maps(name: str, tmp_path: Path) -> None:
    result = updp_rt.prune(
        make(name).float(),
        small_split("train", 16),
        small_split("val", 16),
        num_pruned=2,
        body=AFFINE,
        trials=2,
        epochs=2,
        recalibration_batches=1,
        batch_size=8,
        out=tmp_path / "run",
        show_progress=False,
    )
    assert set(result.pruned.values()) == {AFFINE}
    images = torch.randn(2, 3, 32, 32)
    merged = updp_rt.load(result.folder / "merged")
    torch.testing.assert_close(merged(images), result.subnet.eval()(images), rtol=1e-3, atol=1e-4)
    fast = updp_rt.accelerate(merged, images)
    assert updp_rt.verify(merged, fast, images).passed
