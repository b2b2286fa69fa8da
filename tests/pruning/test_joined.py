"""Neighbours as one gene: in every engine, in the latency table, in the supernet, and in a whole run."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.pruning.conftest import small_split
from updp_rt.blocks import make_progressive, progressive_blocks, prunable_blocks, set_lambda, take_bodies
from updp_rt.blocks.randomize import randomize
from updp_rt.blocks.segments import Segment, make_segments
from updp_rt.pruning import joined, stages
from updp_rt.pruning.genes import Genes, blocks_of, bodies_of, by_block, count_subnets, draw, fastest_genes, genes_of
from updp_rt.pruning.joined import Joined
from updp_rt.pruning.latency import BlockLatency, LatencyTable, measure_latency
from updp_rt.pruning.search import search_blocks
from updp_rt.pruning.supernet import sandwich_losses
from updp_rt.pruning.tabulated import covers

OFFERED = {"a": ("thin", "wide"), "b": ("only",), "c": ("only",), "d": ("only",)}
SEGMENTS = {"a+b": {"a": "thin", "b": "+only"}, "b+c": {"b": "only", "c": "+only"}, "c+d": {"c": "only", "d": "+only"}}
NAMES = genes_of(OFFERED, SEGMENTS)
SAVED = dict(zip(NAMES, (1.0, 0.5, 2.4, 1.0, 1.6, 0.9, 2.6, 0.8), strict=True))
HARM = dict(zip(NAMES, (0.04, 0.01, 0.09, 0.03, 0.08, 0.05, 0.07, 0.03), strict=True))
EVERY = [
    genes
    for count in range(len(OFFERED) + 1)
    for genes in itertools.combinations(NAMES, count)
    if len(set(blocks_of(*genes))) == len(blocks_of(*genes))
]


def latency(genes: Genes) -> float:
    return 10.0 - sum(SAVED[gene] for gene in genes)


def accuracy(genes: Genes) -> float:
    """Blocks at both ends that are pruned hurt more together."""
    return 0.9 - sum(HARM[gene] for gene in genes) - 0.02 * ({"a", "d"} <= set(blocks_of(*genes)))


def test_genes_of_two_blocks_exclude_those_of_each() -> None:
    assert NAMES == ("a as thin", "a as wide", "a+b", "b", "b+c", "c", "c+d", "d")
    assert bodies_of(("a+b", "c"), OFFERED, SEGMENTS) == {"a": "thin", "b": "+only", "c": "only"}
    assert by_block(NAMES)["b"] == ["a+b", "b", "b+c"]
    assert count_subnets(NAMES) == len(EVERY)
    assert fastest_genes(NAMES, latency) == min(EVERY, key=latency)
    rng = random.Random(0)
    for size in range(5):
        drawn = Counter(draw(NAMES, size, rng) for _ in range(300))
        assert drawn.keys() == {genes for genes in EVERY if len(blocks_of(*genes)) == size}


@pytest.mark.parametrize("seed", range(3))
def test_the_first_cover_is_the_best_subset(seed: int) -> None:
    rng = random.Random(seed)
    values = tuple(rng.uniform(-0.3, 0.02) for _ in NAMES)
    saved = tuple(rng.uniform(-0.2, 1.0) for _ in NAMES)
    allowed = -0.5 * sum(saved[NAMES.index(gene)] for gene in fastest_genes(NAMES, lambda g: -sum_of(saved, g)))
    found = covers(NAMES, values, saved, allowed, 5)
    meeting = [genes for genes in EVERY if sum_of(saved, genes) >= -allowed and len(genes) > 1]
    best = max(meeting, key=lambda genes: sum_of(values, genes))
    assert tuple(NAMES[i] for i in found[0]) == best
    for chosen in found:
        genes = tuple(NAMES[i] for i in chosen)
        assert genes in EVERY
        assert sum_of(saved, genes) >= -allowed - 1e-9


def sum_of(values: tuple[float, ...], genes: Genes) -> float:
    return sum(values[NAMES.index(gene)] for gene in genes)


@pytest.mark.parametrize("engine", ["genetic", "guided", "front", "dp"])
def test_every_engine_joins_neighbours(tmp_path: Path, engine: Any) -> None:
    """Each candidate is a subnet and another one; with trials for all, the best is chosen."""
    goal = {} if engine == "front" else {"max_latency_ms": 6.5}
    judged: list[Genes] = []

    def judge(genes: Genes) -> float:
        judged.append(genes)
        return accuracy(genes)

    candidates, _, _ = search_blocks(NAMES, judge, latency, storage=tmp_path / "some", trials=14, engine=engine, **goal)
    assert {candidate.blocks for candidate in candidates} <= set(EVERY)
    assert len(set(judged)) == len(judged)
    assert any(len(blocks_of(gene)) > 1 for genes in judged for gene in genes)
    if engine in ("genetic", "guided"):
        _, chosen, _ = search_blocks(
            NAMES, accuracy, latency, storage=tmp_path / "all", trials=99, engine=engine, **goal
        )
        assert chosen.blocks == max((genes for genes in EVERY if latency(genes) <= 6.5), key=accuracy)


FORMS = {"full": {"conv": 1.0, "factored": 1.2}}


def table_of(names: list[str], pairs: dict[tuple[str, str], float]) -> LatencyTable:
    """Blocks of 2 ms in a model of 20, of 1 ms merged; and pairs."""
    blocks = {name: BlockLatency(baseline_ms=2.0, merged_ms=FORMS) for name in names}
    found = [Joined(blocks=pair, bodies=("full", "full"), ms=ms) for pair, ms in pairs.items()]
    return LatencyTable(device="none", batch_size=16, model_ms=20.0, blocks=blocks, joined=found)


def test_the_table_offers_neighbours_that_are_clearly_faster_joined() -> None:
    table = table_of(["a", "b", "c", "d"], {("a", "b"): 1.5, ("b", "c"): 1.9, ("c", "d"): 2.5})
    assert table.offer_segments("any") == {"a+b": {"a": "full", "b": "+full"}}
    assert table.offer_segments() == {}
    assert table.offer_segments("full") == {}
    assert table.estimate_ms({"a": "full", "b": "full"}) == pytest.approx(18.0)
    assert table.estimate_ms({"a": "full", "b": "+full"}) == pytest.approx(17.5)
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table


def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=10)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model)


def test_neighbours_are_timed_beside_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual network: pairs within a stage and across strides, each structure once, none of another's size."""
    model = timm.create_model("resnet18", num_classes=3, channels=(8, 8, 12, 16)).eval()
    timed: list[dict[str, nn.Module]] = []

    def times(calls: dict[str, Any], **_: Any) -> dict[str, float]:
        timed.append({name: call.func for name, call in calls.items()})
        for call in calls.values():
            assert torch.isfinite(call()).all()
        return {"joined": 3.0, "apart": 4.0}

    monkeypatch.setattr(joined, "time_side_by_side", times)
    monkeypatch.setattr("updp_rt.pruning.latency.time_side_by_side", lambda calls, **_: dict.fromkeys(calls, 1e-3))
    table = measure_latency(model, torch.randn(2, 3, 64, 64), joined=True)
    names = prunable_blocks(model)
    assert [one.blocks for one in table.joined] == list(itertools.pairwise(names))
    assert all(one.ms == pytest.approx(0.75 * 2.0) for one in table.joined)
    assert len(timed) == len({str(calls["joined"]) + str(calls["apart"]) for calls in timed})
    for calls in timed:
        assert sum(isinstance(m, nn.Conv2d) for m in calls["joined"].modules()) == 1
        assert sum(isinstance(m, nn.Conv2d) for m in calls["apart"].modules()) == 2
    assert measure_latency(model, torch.randn(2, 3, 64, 64)).joined == []


@torch.no_grad()
def test_a_segment_fades_from_its_blocks_to_one_convolution() -> None:
    """In float64: the baseline at λ = 0; the mean of both at a half."""
    model = mobilenet().double().eval()
    parts = {"blocks.2.0": "full", "blocks.2.1": "+full"}
    subnet = make_segments(model, parts)
    for index, block in enumerate(progressive_blocks(subnet).values()):
        randomize(block.norms, index)
    images = torch.randn(2, 3, 45, 52, dtype=torch.float64)
    torch.testing.assert_close(subnet(images), model(images), rtol=1e-12, atol=1e-12)
    segment = subnet.get_submodule("blocks.2.0")
    assert isinstance(segment, Segment)
    x = torch.randn(2, segment.blocks[0].block.conv_pw.in_channels, 13, 10, dtype=torch.float64)
    apart = make_progressive(model, dict.fromkeys(parts, "full"))
    for name, block in progressive_blocks(apart).items():
        block.norms.load_state_dict(segment.blocks[list(parts).index(name)].norms.state_dict())
    set_lambda(subnet, 0.5)
    set_lambda(apart, 0.5)
    blocks = list(progressive_blocks(apart).values())
    wanted = (blocks[1](blocks[0](x)) + segment._together(x, 0.5)) / 2
    torch.testing.assert_close(segment(x), wanted, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(segment(x), blocks[1](blocks[0](x)), rtol=1e-3)


@torch.no_grad()
def test_in_the_supernet_no_activation_is_between_neighbours_that_are_joined() -> None:
    """There each pads for itself: what is far from the border is what the segment computes."""
    model = mobilenet().double().eval()
    parts = {"blocks.2.0": "full", "blocks.2.1": "+full"}
    supernet, subnet = make_progressive(model, dict.fromkeys(parts, "full")).eval(), make_segments(model, parts).eval()
    first, second = progressive_blocks(supernet).values()
    set_lambda(supernet, 1.0)
    set_lambda(subnet, 1.0)
    x = torch.randn(1, first.block.conv_pw.in_channels, 24, 24, dtype=torch.float64)
    closed = second(first(x))
    take_bodies(supernet, parts)
    opened, wanted = second(first(x)), subnet.get_submodule("blocks.2.0")(x)
    torch.testing.assert_close(opened[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(opened, closed, rtol=1e-3)
    take_bodies(supernet, dict.fromkeys(parts, "full"))
    assert torch.equal(second(first(x)), closed)


def test_the_sandwich_joins_half_of_the_neighbours_that_are_pruned() -> None:
    supernet = make_progressive(mobilenet(), dict.fromkeys(("blocks.2.0", "blocks.2.1", "blocks.2.2"), "full")).train()
    first, second, _ = progressive_blocks(supernet).values()
    seen: list[tuple[float, float, bool]] = []
    supernet.register_forward_pre_hook(lambda *_: seen.append((first.lam, second.lam, first.opened)))
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
    losses = sandwich_losses(0, 1, segments=[("blocks.2.0", "blocks.2.1")])
    for step in range(12):
        list(losses(supernet, images, labels, step))
    pruned = [opened for one, other, opened in seen if one == other == 1.0]
    assert set(pruned) == {True, False}
    assert not any(opened for one, other, opened in seen if not one == other == 1.0)
    assert not any(opened for _, _, opened in seen[::3]), "the largest is the baseline"


@pytest.mark.slow
@pytest.mark.parametrize("search", ["dp", "auto", "guided", "genetic"])
def test_a_run_joins_what_its_search_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str) -> None:
    """Where only joining is fast enough."""
    names = prunable_blocks(mobilenet())
    pairs = {("blocks.2.0", "blocks.2.1"): 0.1, ("blocks.3.1", "blocks.3.2"): 0.1}
    table = table_of(names, pairs)
    monkeypatch.setattr(stages, "measure_latency", lambda *_, **__: table)
    result = updp_rt.prune(
        mobilenet(),
        small_split("train", 16),
        small_split("val", 16),
        max_latency=(20.0 - len(names) - 1.0) / 20.0,
        body="any",
        search=search,
        trials=22,
        epochs=2,
        supernet_epochs=1,
        recalibration_batches=1,
        batch_size=8,
        out=tmp_path / "run",
        show_progress=False,
    )
    chosen = result.search.chosen
    found = [gene for gene in chosen.blocks if len(blocks_of(gene)) > 1]
    assert found
    assert chosen.latency_ms == pytest.approx(table.estimate_ms(result.pruned))
    for gene in found:
        first, second = blocks_of(gene)
        assert result.pruned[second] == "+full"
        assert result.summary["blocks"][second]["form"] == "joined"
        merged = result.merge()
        convs = [m for m in merged.get_submodule(first).modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 1
        assert type(merged.get_submodule(second)) is nn.Identity
    assert result.summary["predictions_that_differ"] == 0
    images: Tensor = torch.randn(2, 3, 32, 32)
    again = updp_rt.load(result.folder / "merged")
    torch.testing.assert_close(again(images), result.merge()(images), rtol=1e-4, atol=1e-5)
