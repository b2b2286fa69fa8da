"""The four stages in one call: what they leave behind, and what a killed run becomes."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

import updp_rt
from tests.processes import finish, start
from tests.pruning.conftest import run_pruning, small_model, small_split
from updp_rt.blocks import merge_origins, progressive_blocks, prunable_blocks
from updp_rt.pruning import LatencyTable, RunError, stages
from updp_rt.pruning.latency import BlockLatency
from updp_rt.pruning.pipeline import STAGES, merge_folder, run_stages


def results(folder: Path) -> dict[str, object]:
    """What a run computed: everything but times and measured latencies."""
    search = json.loads((folder / "search.json").read_text())
    return {
        "supernet": load_file(folder / "supernet.safetensors"),
        "subnet": load_file(folder / "subnet.safetensors"),
        "search": [(c["blocks"], c["accuracy"]) for c in search["candidates"]],
        "chosen": search["bodies"],
        "history": (folder / "history.csv").read_text() + (folder / "lambda.csv").read_text(),
    }


def assert_identical(found: dict, wanted: dict) -> None:
    for stage in ("supernet", "subnet"):
        assert found[stage].keys() == wanted[stage].keys()
        assert all(torch.equal(value, wanted[stage][key]) for key, value in found[stage].items()), stage
    assert {k: found[k] for k in ("search", "chosen", "history")} == {
        k: wanted[k] for k in ("search", "chosen", "history")
    }


def test_a_run_leaves_its_results(finished: updp_rt.PruneResult) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "run.json",
        "log.txt",
        "latency.json",
        "supernet.safetensors",
        "search.journal",
        "search.lock",
        "search.json",
        "subnet.safetensors",
        "history.csv",
        "lambda.csv",
        "merged",
        "summary.json",
        "run.lock",
    }


def test_the_merged_model_is_the_subnet(finished: updp_rt.PruneResult) -> None:
    summary = finished.summary
    assert summary["predictions_that_differ"] == 0
    assert summary["merged"]["accuracy"] == summary["subnet"]["accuracy"]
    assert summary["merged"]["depth"] == summary["baseline"]["depth"] - 3
    assert summary["merged"]["macs"] < summary["baseline"]["macs"]
    assert summary["images"] == 50
    assert all(summary[key]["latency_ms"] > 0 for key in ("baseline", "subnet", "merged"))
    merged, loaded = finished.merge(), updp_rt.load(finished.folder / "merged")
    assert list(merge_origins(loaded)) == list(finished.pruned)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(merged(x), loaded(x))
        torch.testing.assert_close(merged(x), finished.subnet(x), rtol=1e-4, atol=1e-4)


def test_lambda_rises_and_then_stays_at_one(finished: updp_rt.PruneResult) -> None:
    rows = list(csv.DictReader((finished.folder / "history.csv").open()))
    lambdas = [float(row["lambda"]) for row in rows]
    assert len(lambdas) == 3
    assert 0 < lambdas[0] < 1
    assert lambdas[1:] == [1.0, 1.0]
    assert all(block.lam == 1.0 for block in progressive_blocks(finished.subnet).values())


def test_lambda_is_recorded_by_step(finished: updp_rt.PruneResult) -> None:
    """12 steps of 4 an epoch; it rises in the first 6."""
    rows = list(csv.DictReader((finished.folder / "lambda.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(12))
    assert [float(row["lambda"]) for row in rows] == pytest.approx([min(1.0, step / 6) for step in range(12)])
    assert "warning: λ goes from 0 to 1 in 6 of 12 steps" in (finished.folder / "log.txt").read_text()


@pytest.mark.slow
def test_the_given_model_is_left_alone(tmp_path: Path) -> None:
    model = small_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    splits = small_split("train", 32), small_split("val", 16)
    updp_rt.prune(
        model,
        *splits,
        num_pruned=2,
        out=tmp_path,
        epochs=1,
        supernet_epochs=1,
        trials=1,
        batch_size=16,
        show_progress=False,
    )
    assert model.training
    assert not progressive_blocks(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_finished_run_is_not_run_again(finished: updp_rt.PruneResult) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in finished.folder.iterdir() if p.name != "log.txt"}
    again = run_pruning(finished.folder)
    assert {p.name: p.stat().st_mtime_ns for p in finished.folder.iterdir() if p.name != "log.txt"} == before
    assert again.summary == finished.summary


def test_another_run_in_the_same_folder_is_refused(finished: updp_rt.PruneResult) -> None:
    with pytest.raises(RunError, match=r"holds another run \(seed: 5 now, 0 there\)"):
        run_pruning(finished.folder, seed=5)
    with pytest.raises(RunError, match="weights_sha256"):
        updp_rt.prune(
            small_model(7), small_split("train", 64), small_split("val", 40), out=finished.folder, num_pruned=3
        )


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="not empty, and not a run of updp_rt"):
        run_pruning(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_result_names_the_file(finished: updp_rt.PruneResult, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    (folder / "search.json").write_text("{}")
    with pytest.raises(RunError, match=r"search.json: damaged .*delete it to run its stage again"):
        run_pruning(folder)
    (folder / "search.json").unlink()
    (folder / "supernet.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match=r"supernet.safetensors: damaged"):
        run_pruning(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_pruned": None},
        {"max_latency": 0.5},
        {"target_speedup": 1.3},
        {"front": True},
        {"num_pruned": None, "target_speedup": 0.9},
        {"num_pruned": None, "front": True, "search": "genetic"},
        {"search": "random"},
        {"epochs": 0},
        {"schedule": "square"},
        {"learning_rate": 1.0},
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings: dict, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        run_pruning(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_too_many_blocks_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_pruned is 9, but this model has 6 prunable blocks"):
        run_pruning(tmp_path / "out", num_pruned=9)
    with pytest.raises(ValueError, match="no pruned body 'shrunk'; choose one of auto, any, full"):
        run_pruning(tmp_path / "out", body="shrunk")
    assert not (tmp_path / "out").exists()


def test_a_stage_alone_needs_the_ones_before(tmp_path: Path) -> None:
    config = updp_rt.PruneConfig(num_pruned=2, supernet_epochs=0)
    from updp_rt.pruning import Run

    run = Run(small_model(), small_split("train", 64), small_split("val", 40), tmp_path, config, show_progress=False)
    for stage in ("search", "train", "merge"):
        with pytest.raises(RunError, match="not there; run the stage that writes it first"):
            run_stages(run, [stage])
    assert STAGES == ("supernet", "search", "train", "merge")


@pytest.mark.slow
def test_stages_one_by_one_give_what_the_whole_gives(finished: updp_rt.PruneResult, tmp_path: Path) -> None:
    """Each stage in a process of its own, through the command line."""
    from safetensors.torch import save_file

    from updp_rt.pruning import Run

    save_file(small_model().state_dict(), tmp_path / "start.safetensors")
    for stage in STAGES:
        config = updp_rt.PruneConfig.model_validate(finished.summary["config"])
        splits = [small_split(*split) for split in (("train", 64), ("val", 40), ("test", 50))]
        run = Run(small_model(), *splits[:2], tmp_path / "out", config, test=splits[2], show_progress=False)
        run_stages(run, [stage])
    assert_identical(results(tmp_path / "out"), results(finished.folder))


def test_merging_a_folder_again(finished: updp_rt.PruneResult, tmp_path: Path) -> None:
    again = updp_rt.load(merge_folder(finished.folder, tmp_path / "again"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), finished.merge()(x))
    with pytest.raises(ValueError, match="no merged form 'conv'"):
        merge_folder(finished.folder, tmp_path / "no", "conv")


def table(model: nn.Module, example: torch.Tensor, *_: object, **__: object) -> LatencyTable:
    """Latencies as on a machine without noise: six blocks that take 1 ms of 8, 0.25 ms merged."""
    block = BlockLatency(baseline_ms=1.0, merged_ms={"full": {"linear": 0.25}})
    blocks = dict.fromkeys(prunable_blocks(model), block)
    return LatencyTable(device="none", batch_size=len(example), model_ms=8.0, blocks=blocks)


QUICK: dict[str, Any] = {"trials": 3, "epochs": 1, "supernet_epochs": 0, "recalibration_batches": 1}


@pytest.mark.slow
def test_the_latency_goal_follows_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)
    result = run_pruning(tmp_path, num_pruned=None, max_latency=0.8, **{**QUICK, "trials": 8}, direct=True)
    assert result.search.chosen.latency_ms <= 0.8 * 8.0
    front = result.search.front()
    assert all(a.latency_ms < b.latency_ms and a.accuracy < b.accuracy for a, b in itertools.pairwise(front))
    assert result.search.chosen in result.search.candidates
    assert result.summary["predicted_ms"] == result.search.chosen.latency_ms
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert float(rows[0]["lambda"]) == 1.0  # direct
    assert {row["lambda"] for row in csv.DictReader((tmp_path / "lambda.csv").open())} == {"1.0"}


@pytest.mark.slow
def test_a_speed_up_is_met_by_tables_and_the_front_prunes_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)
    goal = {"num_pruned": None, "target_speedup": 1.3, "search": "dp"}
    first = run_pruning(tmp_path / "speed-up", **{**QUICK, **goal}, direct=True)
    assert len(first.pruned) >= 3  # of 8 ms three save 2.25, two 1.5
    predicted = 8 / (8 - 0.75 * len(first.pruned))
    assert first.summary["prediction"]["predicted_speedup"] == pytest.approx(predicted)
    signal = first.search.signal
    assert signal is not None
    assert (signal.images, signal.compared) == (40, 1)
    front = run_pruning(tmp_path / "front", **QUICK, num_pruned=None, front=True, direct=True)
    assert front.pruned
    assert front.search.signal is not None
    assert front.search.signal.paired
    with pytest.raises(ValueError, match=r"no subnet is 3 times as fast .*, 2.28 times as fast; ask for 2.28 or less"):
        run_pruning(tmp_path / "none", **QUICK, num_pruned=None, target_speedup=3)


@pytest.mark.slow
def test_distillation_and_accumulation_run(tmp_path: Path) -> None:
    result = run_pruning(tmp_path, epochs=1, supernet_epochs=1, trials=2, distill=0.5, accumulate=2, schedule="cosine")
    assert result.summary["predictions_that_differ"] == 0


@pytest.mark.slow
def test_mixed_precision_leaves_no_autocast_behind(tmp_path: Path) -> None:
    """In a process of its own: Accelerate's precision is set once a process."""
    finish(start(_prune_in_bfloat16, tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["merged"]["accuracy"] == summary["subnet"]["accuracy"]


def _prune_in_bfloat16(folder: Path) -> None:
    result = run_pruning(folder, mixed_precision="bf16", supernet_epochs=1, epochs=1, trials=2)
    assert "forward" not in vars(result.subnet), vars(result.subnet)["forward"]
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(result.merge()(x), result.subnet(x), rtol=1e-4, atol=1e-4)


def test_the_subnet_trains_on_and_merges_as_it_then_is(finished: updp_rt.PruneResult) -> None:
    result = updp_rt.PruneResult(finished.run)
    x = torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.SGD(result.subnet.train().parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(result.subnet(x), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    result.subnet.eval()
    with torch.no_grad():
        torch.testing.assert_close(result.merge()(x), result.subnet(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(result.merge()(x), finished.merge()(x), rtol=1e-3, atol=1e-3)


def test_an_unsupported_model_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(updp_rt.UnsupportedModelError, match="belongs to no family"):
        updp_rt.prune(timm.create_model("vgg11"), [], [], num_pruned=1, out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
