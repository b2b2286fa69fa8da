"""What the table says of a whole model: in context, on which kernels, measured once a device; and how far off it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from updp_rt.blocks import inspect
from updp_rt.pruning import kept, latency, stages
from updp_rt.pruning.kept import kept_table
from updp_rt.pruning.latency import PLAIN, BlockLatency, Kernels, LatencyTable, measure_latency
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.run import LATENCY
from updp_rt.pruning.search import Candidate, SearchResult

QUIET = Progress(show=False)


def block(baseline: float, merged: float) -> BlockLatency:
    return BlockLatency(baseline_ms=baseline, merged_ms={"full": {"conv": merged}})


BLOCKS = {"a": block(3.0, 1.0), "b": block(2.0, 1.0), "c": block(1.0, 1.5)}


def test_what_blocks_save_is_what_they_save_in_the_model() -> None:
    """Alone a and b save 3 ms, in the model 2; c is slower merged, and not among the fastest."""
    alone = LatencyTable(device="d", batch_size=1, model_ms=10.0, blocks=BLOCKS)
    assert alone.estimate_ms({"a": "full", "b": "full"}) == 7.0
    table = alone.model_copy(update={"fastest_ms": 8.0})
    assert table.saving() == {"a": "full", "b": "full"}
    assert table.estimate_ms({}) == 10.0
    assert table.estimate_ms({"a": "full", "b": "full"}) == pytest.approx(8.0)
    assert table.estimate_ms({"a": "full"}) == pytest.approx(10 - 2 * 2 / 3)
    assert table.estimate_ms({"c": "full"}) > 10.0
    nothing = table.model_copy(update={"fastest_ms": 11.0})
    assert nothing.estimate_ms({"a": "full"}) == 10.0, "what is slower in the model is no faster in part"
    assert alone.model_copy(update={"blocks": {"c": BLOCKS["c"]}, "fastest_ms": 9.0}).in_context() == 1.0
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table
    old = alone.model_dump(exclude={"fastest_ms", "skipped_ms", "mapped_ms", "kernels"})
    assert LatencyTable.model_validate(old) == alone, "tables that were stored before"


def test_what_blocks_save_that_are_left_out_is_what_they_take_in_the_model() -> None:
    """Alone a and b take 5 ms, in the model 6: so each takes 1.2 times as much; merging them saves 2 ms of 3."""
    blocks = {name: each.model_copy(update={"skippable": name != "c"}) for name, each in BLOCKS.items()}
    before = LatencyTable(device="d", batch_size=1, model_ms=10.0, blocks=blocks, fastest_ms=8.0)
    assert before.estimate_ms({"a": "skip"}) == pytest.approx(10 - 3 * 2 / 3), "tables that were stored before"
    table = before.model_copy(update={"skipped_ms": 4.0})
    assert table.estimate_ms({"a": "skip", "b": "skip"}) == pytest.approx(4.0)
    assert table.estimate_ms({"b": "skip"}) == pytest.approx(10 - 1.2 * 2)
    assert table.estimate_ms({"a": "full", "b": "skip"}) == pytest.approx(10 - 2 * 2 / 3 - 1.2 * 2)
    slower = table.model_copy(update={"skipped_ms": 11.0})
    assert slower.estimate_ms({"a": "skip"}) == 10.0


def test_the_whole_model_is_timed_beside_its_fastest_form_on_the_kernels_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an EfficientNet's blocks those faster merged are merged, others left out; all run as `prepare` makes them."""
    model = timm.create_model("mobilenetv2_035", depth_multiplier=0.4).eval()
    example = torch.randn(2, 3, 32, 32)
    prepared: list[nn.Module] = []

    def times(calls: dict[str, Any], **_: object) -> dict[str, float]:
        for call in calls.values():
            call()
        if "model" in calls:
            return {"model": 8e-3, "fastest": 6e-3, "skipped": 5e-3, "mapped": 4e-3}
        fast = calls["baseline"].func.in_channels > 16
        return {name: 1e-3 if name == "baseline" or not fast else 0.5e-3 for name in calls}

    class Prepared(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.in_channels = next(m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d))

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    def prepare(module: nn.Module, x: Tensor) -> nn.Module:
        prepared.append(module)
        return Prepared(module)

    monkeypatch.setattr(latency, "time_side_by_side", times)
    table = measure_latency(model, example, None, prepare)
    saving = set(table.saving())
    assert 0 < len(saving) < len(table.blocks)
    reported = {block.name: set(block.merged) for block in inspect(model, (3, 32, 32)).blocks}
    assert all(set(each.by_label()) == reported[name] for name, each in table.blocks.items())
    assert (table.model_ms, table.fastest_ms, table.skipped_ms, table.mapped_ms) == (8.0, 6.0, 5.0, 4.0)
    whole, fastest, without, mapped = prepared[-4:]
    for name, each in table.blocks.items():
        changed = type(whole.get_submodule(name)) is not type(fastest.get_submodule(name))
        assert changed == (name in saving)
        assert each.skippable == isinstance(without.get_submodule(name), nn.Identity)
        assert each.is_faster("affine") == isinstance(mapped.get_submodule(name), nn.Conv2d)
    assert table.estimate_ms(table.saving()) == pytest.approx(6.0)
    skipped = {name: "skip" for name, each in table.blocks.items() if each.skippable}
    assert skipped
    assert table.estimate_ms(skipped) == pytest.approx(5.0)
    assert 0 < len(table.saving("affine")) < len(table.blocks)
    assert table.estimate_ms(table.saving("affine")) == pytest.approx(4.0)


def test_what_a_block_took_while_the_machine_was_busy_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first kind of block is slow when it is timed first, the last one when it is timed again."""
    model, example = timm.create_model("resnet18", num_classes=4).eval(), torch.randn(1, 3, 32, 32)
    kinds, timed, busy = 7, 0, {0, 13}  # both blocks of the first stage are alike

    def times(calls: dict[str, Any], **_: object) -> dict[str, float]:
        nonlocal timed
        if "model" in calls:
            return {"model": 8e-3, "fastest": 6e-3, "skipped": 5e-3, "mapped": 4e-3}
        timed += 1
        return dict.fromkeys(calls, 9e-3 if timed - 1 in busy else 1e-3)

    monkeypatch.setattr(latency, "time_side_by_side", times)
    table = measure_latency(model, example)
    assert timed == 2 * kinds
    assert [each.baseline_ms for each in table.blocks.values()] == [1.0] * 8
    monkeypatch.setattr(latency, "AGAIN", 0.0)
    timed = 0
    table = measure_latency(model, example)
    assert timed == kinds, "where that takes long, once"
    assert [each.baseline_ms for each in table.blocks.values()] == [9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_table_is_measured_once_a_device_and_a_damaged_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "cache_folder", lambda: tmp_path)
    measured = 0

    def measure() -> LatencyTable:
        nonlocal measured
        measured += 1
        return LatencyTable(device="d", batch_size=1, model_ms=float(measured), blocks=BLOCKS)

    what = {"architecture": "resnet18", "batch_size": 4}
    assert kept_table(what, measure, QUIET).model_ms == kept_table(dict(what), measure, QUIET).model_ms == 1.0
    assert kept_table({**what, "batch_size": 8}, measure, QUIET).model_ms == 2.0
    for path in (tmp_path / "latency").iterdir():
        path.write_text("{}")
    assert kept_table(what, measure, QUIET).model_ms == 3.0
    monkeypatch.setattr(kept, "cache_folder", lambda: next((tmp_path / "latency").iterdir()))  # a file
    assert kept_table(what, measure, QUIET).model_ms == 4.0


def test_predicted_is_compared_with_measured_on_the_same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LatencyTable(device="d", batch_size=1, model_ms=10.0, blocks=BLOCKS, kernels="fast ones")
    chosen = Candidate(blocks=("a",), accuracy=0.5, latency_ms=8.0)
    stored = {LATENCY: table}
    search = SearchResult(candidates=[chosen], chosen=chosen, bodies={"a": "full"})
    fast = Kernels("fast ones", lambda module, x: module)
    run: Any = SimpleNamespace(
        load=lambda name, kind: stored.get(name, search),
        kernels=fast,
        method=SimpleNamespace(predicts=True),
        model=nn.Identity(),
        example=torch.zeros(1),
        device=torch.device("cpu"),
    )
    monkeypatch.setattr(stages, "time_side_by_side", lambda calls, **_: {"baseline": 0.05, "merged": 0.05})
    found = stages.predicted_and_measured(run, nn.Identity(), {"baseline": 0.2, "merged": 0.1})
    assert found == {
        "kernels": "fast ones",
        "predicted_speedup": 1.25,
        "measured_speedup": 1.0,
        "off": pytest.approx(0.25),
    }
    run.kernels = PLAIN
    assert stages.predicted_and_measured(run, nn.Identity(), {"baseline": 0.2, "merged": 0.1}) is None
    stored[LATENCY] = table.model_copy(update={"kernels": PLAIN.name})
    found = stages.predicted_and_measured(run, nn.Identity(), {"baseline": 0.25, "merged": 0.2})
    assert found is not None
    assert found["off"] == pytest.approx(0.0)
    run.method.predicts = False
    assert stages.predicted_and_measured(run, nn.Identity(), {"baseline": 0.25, "merged": 0.2}) is None
