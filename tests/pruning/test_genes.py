"""Pruned bodies as genes: every engine chooses them, one a block at most, and whole runs take what was chosen."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import updp_rt
import updp_rt.methods
from tests.marks import slow
from tests.pruning.conftest import small_model, small_split
from tests.pruning.test_search import dying
from updp_rt.blocks import make_progressive, merge_origins, progressive_blocks, prunable_blocks
from updp_rt.blocks.randomize import randomize
from updp_rt.pruning import PruneConfig, RunError, stages
from updp_rt.pruning.genes import Genes, blocks_of, bodies_of, by_block, count_subnets, draw, fastest_genes, genes_of
from updp_rt.pruning.genetic import next_by_genes
from updp_rt.pruning.latency import BlockLatency, LatencyTable
from updp_rt.pruning.search import search_blocks
from updp_rt.pruning.supernet import calibrate, sandwich_losses
from updp_rt.pruning.tabulated import covers

OFFERED = {"a": ("thin", "wide"), "b": ("only",), "c": ("thin", "wide"), "d": ("only",)}
NAMES = genes_of(OFFERED)
SAVED = dict(zip(NAMES, (2.0, 1.0, 1.5, 2.0, 0.5, -0.5), strict=True))
HARM = dict(zip(NAMES, (0.20, 0.02, 0.04, 0.15, 0.01, 0.03), strict=True))
EVERY = [
    tuple(gene for gene in chosen if gene)
    for chosen in itertools.product(*(("", *g) for g in by_block(NAMES).values()))
]


def latency(genes: Genes) -> float:
    return 10.0 - sum(SAVED[gene] for gene in genes)


def accuracy(genes: Genes) -> float:
    """Neighbours that are both pruned hurt more together."""
    blocks = {blocks_of(gene)[0] for gene in genes}
    return 0.9 - sum(HARM[gene] for gene in genes) - 0.03 * ({"a", "b"} <= blocks) - 0.02 * ({"c", "d"} <= blocks)


BEST = max((genes for genes in EVERY if latency(genes) <= 7.0), key=accuracy)


def test_genes_are_written_and_read() -> None:
    assert NAMES == ("a as thin", "a as wide", "b", "c as thin", "c as wide", "d")
    assert bodies_of(("a as wide", "b"), OFFERED) == {"a": "wide", "b": "only"}
    assert count_subnets(NAMES) == len(EVERY) == 3 * 2 * 3 * 2
    assert count_subnets(["a", "b", "c"], 2) == 3
    assert fastest_genes(NAMES, latency) == ("a as thin", "b", "c as thin")
    rng = random.Random(0)
    drawn = Counter(draw(NAMES, 3, rng) for _ in range(400))
    assert all(genes in EVERY and len(genes) == 3 for genes in drawn)
    assert len(drawn) == sum(len(genes) == 3 for genes in EVERY)


def test_genetic_children_are_subnets_and_all_there_are_come_once() -> None:
    judged: dict[Genes, float | None] = {}
    for _ in EVERY:
        child = next_by_genes(NAMES, judged, latency, trials=len(EVERY), seed=2, max_latency_ms=7.0)
        assert child in EVERY
        assert child not in judged
        judged[child] = accuracy(child)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_cover_has_the_best_body_of_each_block(seed: int) -> None:
    rng = random.Random(seed)
    values = tuple(rng.uniform(-0.3, 0.02) for _ in NAMES)
    saved = tuple(rng.uniform(-0.2, 1.0) for _ in NAMES)
    every = [tuple(NAMES.index(gene) for gene in genes) for genes in EVERY]
    allowed = -0.7 * sum(max(0.0, *(saved[NAMES.index(g)] for g in own)) for own in by_block(NAMES).values())
    fitting = [chosen for chosen in every if -sum(saved[i] for i in chosen) <= allowed]
    found = covers(NAMES, values, saved, allowed, 5)
    assert found[0] == max(fitting, key=lambda chosen: sum(values[i] for i in chosen))
    assert set(found) <= set(fitting)
    assert len(found) == len(set(found)) <= 5


@pytest.mark.parametrize("engine", ["guided", "genetic", "front", "dp"])
def test_every_engine_chooses_bodies_and_goes_on_where_it_was_stopped(tmp_path: Path, engine: Any) -> None:
    def search(name: str, evaluate: Any = accuracy, trials: int = 14) -> Any:
        path = tmp_path / f"{name}.journal"
        return search_blocks(
            NAMES, evaluate, latency, storage=path, trials=trials, engine=engine, max_latency_ms=7.0, seed=1
        )

    candidates, chosen, _ = search("whole")
    assert all(c.blocks in EVERY for c in candidates)
    assert len({c.blocks for c in candidates}) == len(candidates)
    assert len(candidates) == 14 or engine == "dp", "which has no more that it holds to be good"
    with pytest.raises(KeyboardInterrupt):
        search("stopped", dying(accuracy, 9))
    assert search("stopped") == (candidates, chosen, None)
    assert chosen.latency_ms <= 7.0
    if engine != "dp":
        assert search("all", trials=99)[1].blocks == BEST


def test_a_number_of_blocks_leaves_no_choice_of_bodies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a number of blocks weighs no latency"):
        search_blocks(NAMES, accuracy, latency, storage=tmp_path / "s", trials=4, num_pruned=2)
    with pytest.raises(ValidationError, match=r"body=any weighs accuracy against latency.* give target_speedup"):
        PruneConfig(num_pruned=2, body="any")


def test_bodies_that_save_nothing_are_not_offered() -> None:
    block = BlockLatency(baseline_ms=1.0, merged_ms={"a": {"x": 2.0}, "b": {"x": 0.9, "y": 0.2}, "c": {"x": 0.7}})
    slow_ones = BlockLatency(baseline_ms=1.0, merged_ms={"a": {"x": 2.0}, "b": {"x": 1.0}})
    table = LatencyTable(device="d", batch_size=1, model_ms=9.0, blocks={"one": block, "two": slow_ones})
    assert table.offer_bodies(["one", "two"], "any") == {"one": ("b", "c"), "two": ("b",)}
    assert table.offer_bodies(["one"]) == {"one": ("b",)}
    assert table.offer_bodies(["one"], "c") == {"one": ("c",)}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, channels=(8, 8, 12, 16), layers=(1, 1, 1, 1))
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model)


def offered_resnet() -> nn.Module:
    supernet = make_progressive(resnet())
    for name, block in progressive_blocks(supernet).items():
        if name != "layer1.0":
            block.offer(("shrunk", "full"))
    return supernet


def test_the_sandwich_trains_every_body_and_the_step_alone_decides_which() -> None:
    supernet = offered_resnet().train()
    seen: list[list[tuple[str, float]]] = []

    def note(model: nn.Module, _: object) -> None:
        blocks = progressive_blocks(model).values()
        seen.append([(block.body, block.lam) for block in blocks if isinstance(block.lam, float)])

    supernet.register_forward_pre_hook(note)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
    for step in range(6):
        list(sandwich_losses(0, 1)(supernet, images, labels, step))
    largest, smallest = seen[::3], seen[1::3]
    assert all(state == [("shrunk", 0.0)] * 4 for state in largest), "as the first step began"
    assert all(lam == 1.0 for state in smallest for _, lam in state)
    assert all(state[0][0] == "shrunk" for state in seen), "which had no choice"
    for block in range(1, 4):
        assert {state[block][0] for state in smallest} == {"shrunk", "full"}
    again = len(seen)
    list(sandwich_losses(0, 1)(supernet, images, labels, 4))
    assert seen[again:] == seen[12:15]


@torch.no_grad()
def test_norms_of_all_bodies_are_fitted_at_the_start() -> None:
    supernet = offered_resnet()
    images: Tensor = torch.randn(8, 3, 32, 32)
    wanted = {
        body: make_progressive(resnet(), dict.fromkeys(progressive_blocks(supernet), body))
        for body in ("shrunk", "full")
    }
    for model in (supernet, *wanted.values()):
        calibrate(model, images)
    for name, block in progressive_blocks(supernet).items():
        assert block.body == "shrunk"
        for key, value in block.norms.state_dict().items():
            body, _, own = key.rpartition("/")
            single = progressive_blocks(wanted[body or "shrunk"])[name].norms.state_dict()[own]
            torch.testing.assert_close(value, single, rtol=1e-4, atol=1e-5)


def table(model: nn.Module, example: Tensor, *_: object, **__: object) -> LatencyTable:
    """Four blocks of 1 ms in a model of 8: shrunk they take 0.2 ms, full 0.6, but for the first, which gets slower."""
    forms = {"shrunk": {"conv": 0.2}, "full": {"conv": 0.9, "factored": 0.6}}
    block = BlockLatency(baseline_ms=1.0, merged_ms=forms)
    first = BlockLatency(baseline_ms=1.0, merged_ms={**forms, "full": {"conv": 1.2, "factored": 1.1}})
    names = prunable_blocks(model)
    blocks = {name: block if index else first for index, name in enumerate(names)}
    return LatencyTable(device="none", batch_size=len(example), model_ms=8.0, blocks=blocks)


@pytest.mark.parametrize("search", ["dp", slow("auto"), slow("guided"), slow("genetic")])
def test_a_run_takes_the_bodies_that_its_search_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)
    quick = {"trials": 12, "epochs": 1, "supernet_epochs": 1, "recalibration_batches": 1, "batch_size": 16}
    goal = {"target_speedup": 1.15, "search": search, "body": "any"}

    def run(**settings: Any) -> updp_rt.PruneResult:
        data = small_split("train", 16), small_split("val", 16)
        return updp_rt.prune(resnet(), *data, show_progress=False, **{**quick, **goal, **settings})

    result = run(out=tmp_path / "any")
    found, chosen = result.search, result.search.chosen
    assert result.pruned == {
        blocks_of(gene)[0]: gene.split(" as ")[-1] if " as " in gene else "shrunk" for gene in chosen.blocks
    }
    bodies = {gene.split(" as ")[-1] for c in found.candidates for gene in c.blocks if " as " in gene}
    assert bodies == {"shrunk", "full"}
    assert not any(gene.startswith("layer1.0 as") for c in found.candidates for gene in c.blocks)
    assert chosen.latency_ms == pytest.approx(
        8.0 - sum({"shrunk": 0.8, "full": 0.4}[body] for body in result.pruned.values())
    )
    assert {name: origin.body for name, origin in merge_origins(result.merge()).items()} == result.pruned
    assert result.summary["predictions_that_differ"] == 0
    with pytest.raises(RunError, match=r"its supernet is not this run's \(body: 'auto' now, 'any' there\)"):
        run(out=tmp_path / "auto", body="auto", reuse=tmp_path / "any")


def test_rivals_and_unknown_bodies_are_refused(tmp_path: Path) -> None:
    data = small_split("train", 32), small_split("val", 16)
    with pytest.raises(ValueError, match="the method dp has no search that could choose bodies"):
        updp_rt.prune(resnet(), *data, method="dp", target_speedup=1.1, body="any", out=tmp_path / "out")
    with pytest.raises(ValueError, match="no pruned body 'tiny'; choose one of auto, any, full"):
        updp_rt.prune(small_model(), *data, num_pruned=1, batch_size=16, body="tiny", out=tmp_path / "out")
