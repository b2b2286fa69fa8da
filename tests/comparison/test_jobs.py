"""A comparison as jobs: what there is to do, one budget, stopping and going on, what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

import updp_rt
from tests.methods.test_runs import digits, made
from updp_rt.artifacts import ArtifactError, create_model
from updp_rt.artifacts.preprocessing import Preprocessing
from updp_rt.blocks.randomize import randomize
from updp_rt.comparison import (
    WIDTHS,
    CompareConfig,
    Contest,
    Job,
    front,
    measure,
    plan_jobs,
    published_rows,
    read_comparison,
    run_jobs,
    standings,
    timing,
)
from updp_rt.comparison import jobs as running
from updp_rt.comparison.jobs import IDENTITY, Outcome
from updp_rt.comparison.plan import check_jobs, prune_config, width_epochs
from updp_rt.comparison.published import PUBLISHED
from updp_rt.comparison.width import _closest, narrow
from updp_rt.data import Splits
from updp_rt.methods import METHODS
from updp_rt.pruning import RunError, TrainConfig
from updp_rt.pruning.progress import Progress

SETTINGS = {"supernet_epochs": 1, "epochs": 1, "batch_size": 8, "recalibration_batches": 1, "trials": 2}


def config(**given: Any) -> CompareConfig:
    asked = {"methods": ("updp", "drop"), "num_pruned": (1, 2), "seeds": 2, "settings": SETTINGS}
    return CompareConfig.model_validate({**asked, **given})


def contest(folder: Path, **given: Any) -> Contest:
    half = (0.5, 0.5, 0.5)
    pictures = Preprocessing(mean=half, std=half, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")
    train, val = digits()
    splits = Splits(train, val, val, 3, pictures)
    return Contest(folder, "resnet18", config(**given), splits, "digits", lambda seed: small(), None)


@lru_cache
def small() -> nn.Module:
    """A ResNet of six blocks, of which two can be left out."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3, channels=(8, 8, 12, 16), layers=(3, 1, 1, 1))
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    return randomize(model)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that were done, by stand-ins; `drop` of two blocks under seed 1 fails the first time."""
    keys: list[str] = []

    def prune(contest: Contest, job: Job) -> Outcome:
        keys.append(job.key)
        if job == Job("drop", 2, 1) and keys.count(job.key) == 1:
            raise ValueError("no such\n  luck")
        accuracy = 0.9 - 0.1 * job.goal + 0.02 * job.seed - (0.05 if job.method == "drop" else 0.0)
        return Outcome(
            method=job.method, goal=job.goal, seed=job.seed, accuracy=accuracy, pruned=int(job.goal), params=5
        )

    def judge(contest: Contest, seed: int) -> None:
        job = Job("baseline", 0, seed)
        outcome = Outcome(method="baseline", goal=0, seed=seed, accuracy=0.9 + 0.02 * seed, params=7)
        running._store(contest, job.key, outcome)

    monkeypatch.setattr(running, "_prune", prune)
    monkeypatch.setattr(running, "_narrow", prune)
    monkeypatch.setattr(running, "_judge_baseline", judge)
    return keys


def test_jobs_go_seed_by_seed_and_methods_of_width_have_goals_of_their_own() -> None:
    asked = config(methods=("updp:direct=true", "channels"), amounts=(0.3,))
    assert plan_jobs(asked) == [
        Job(*each, seed)
        for seed in (0, 1)
        for each in (("updp:direct=true", 1), ("updp:direct=true", 2), ("channels", 0.3))
    ]
    assert plan_jobs(asked)[0].key == "updp_direct=true-1-seed-0"
    with pytest.raises(ValueError, match="channels needs amounts"):
        plan_jobs(config(methods=("channels",)))
    with pytest.raises(ValueError, match="drop needs num_pruned"):
        plan_jobs(config(methods=("drop",), num_pruned=()))
    with pytest.raises(ValueError, match="updp, updp: give each once"):
        config(methods=("updp", "updp"))
    with pytest.raises(ValueError, match="between 0 and 1"):
        config(amounts=(1.5,))


def test_a_goal_behind_a_name_is_asked_for_once_a_seed() -> None:
    name = "updp:body=any:target_speedup=1.5"
    asked = config(methods=(name, "drop"), num_pruned=(1, 2), seeds=1)
    first, *others = plan_jobs(asked)
    assert [job.label for job in (first, *others)] == [name, "drop 1", "drop 2"]
    assert first.key == "updp_body=any_target_speedup=1.5-0-seed-0"
    found = prune_config(asked, first, 100)
    assert (found.num_pruned, found.target_speedup, found.body) == (None, 1.5, "any")
    assert plan_jobs(config(methods=("updp:front=true",), num_pruned=(), seeds=1))[0].label == "updp:front=true"
    model = create_model("small_resnet", size=(32, 32))
    check_jobs(asked, model)
    for wrong, why in (("drop:target_speedup=1.5", "drop prunes a number"), ("updp:front=1:max_latency=0.5", "one of")):
        with pytest.raises(ValueError, match=why):
            check_jobs(config(methods=(wrong,)), model)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_spends_the_same_passes(name: str) -> None:
    """Those of its chooser and of the pruned model together; what it shares among the entries of tables counts."""
    given = {**SETTINGS, "supernet_epochs": 4, "epochs": 5, "random_subnets": 1}
    few, many = 10, 10_000
    found = prune_config(config(settings=given), Job(name, 1, 0), many)
    method = METHODS[name]
    step = 3 if name in ("dp", "layermerge") else method.passes(found)
    spent = (found.supernet_epochs * step if step else 0) + found.epochs
    assert spent == 17 or not method.trains
    spared = prune_config(config(settings=given), Job(name, 1, 0), few)
    if name == "updp":
        assert (found.supernet_epochs, found.epochs) == (4, 5)
        assert (spared.supernet_epochs, spared.epochs) == (0, 17)
        own = prune_config(config(settings=given), Job("updp:supernet_epochs=2", 1, 0), few)
        assert (own.supernet_epochs, own.epochs) == (2, 5 + 2 * 3)
        both = prune_config(config(settings=given), Job("updp:supernet_epochs=2:epochs=7", 1, 0), few)
        assert (both.supernet_epochs, both.epochs) == (2, 7)
        taught = prune_config(config(settings=given), Job("updp:distill=0.5", 1, 0), few)
        assert (taught.supernet_epochs, taught.epochs) == (0, 13)
    else:
        assert spared == found
    assert width_epochs(config(settings=given)) == 17


def test_settings_of_one_method_are_its_own(tmp_path: Path) -> None:
    asked = config(methods=("updp:direct=true:lr=0.1", "drop"))
    assert prune_config(asked, Job("updp:direct=true:lr=0.1", 1, 0), 1).direct
    assert prune_config(asked, Job("updp:direct=true:lr=0.1", 1, 0), 1).lr == 0.1
    assert not prune_config(asked, Job("drop", 1, 0), 1).direct
    for method, words in (
        ("updp:magic=1", "'magic=1' is no setting of pruning"),
        ("magic", "no method 'magic'"),
        ("hetdpt", "takes parts out of transformer blocks"),
    ):
        with pytest.raises(ValueError, match=words):
            run_jobs(contest(tmp_path / "folder", methods=(method,)), progress=Progress(show=False))
    assert not (tmp_path / "folder" / "rows").exists()


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path, done: list[str]) -> None:
    quiet = Progress(show=False)
    left = run_jobs(contest(tmp_path), progress=quiet)
    assert left == [Job("drop", 2, 1)]
    assert read_comparison(tmp_path).failed[0].failed == "ValueError: no such luck"
    (tmp_path / "rows" / "updp-1-seed-0.json").unlink()
    first = len(done)
    assert run_jobs(contest(tmp_path), progress=quiet) == []
    assert done[first:] == ["updp-1-seed-0", "drop-2-seed-1"]
    assert run_jobs(contest(tmp_path, seeds=3), progress=quiet) == []
    assert [key for key in done[first + 2 :] if "seed-2" not in key] == []
    with pytest.raises(RunError, match=r"holds another comparison \(settings: .*; choose another folder"):
        run_jobs(contest(tmp_path, settings={**SETTINGS, "epochs": 9}), progress=quiet)
    (tmp_path / "rows" / "updp-1-seed-0.json").write_text("{")
    with pytest.raises(RunError, match=r"damaged .* delete it to run its job again"):
        read_comparison(tmp_path)


def test_a_comparison_from_before_a_setting_existed_is_the_same_one(tmp_path: Path) -> None:
    def training(**given: Any) -> Contest:
        return replace(contest(tmp_path), training=TrainConfig.model_validate(given))

    training(epochs=2).begin()
    stored = json.loads((tmp_path / IDENTITY).read_text())
    del stored["training"]["sync_batch_norm"]
    (tmp_path / IDENTITY).write_text(json.dumps(stored))
    training(epochs=2).begin()
    (tmp_path / IDENTITY).write_text(json.dumps(stored))
    with pytest.raises(RunError, match="holds another comparison"):
        training(epochs=2, sync_batch_norm=True).begin()


def test_a_job_that_another_process_is_at_is_left_to_it(tmp_path: Path, done: list[str]) -> None:
    held = Job("updp", 1, 0)
    contest(tmp_path).begin()
    with running._hold(contest(tmp_path), held, timeout=0):
        assert held in run_jobs(contest(tmp_path, seeds=1), progress=Progress(show=False))
    assert held.key not in done
    assert run_jobs(contest(tmp_path, seeds=1), progress=Progress(show=False)) == []
    assert done.count(held.key) == 1


def test_parts_of_a_comparison_are_put_together_by_copying(tmp_path: Path, done: list[str]) -> None:
    quiet = Progress(show=False)
    for part in (1, 2):
        assert run_jobs(contest(tmp_path / str(part)), shard=(part, 2), progress=quiet)
    assert len(done) == 8
    assert len(set(done)) == 8
    for path in (tmp_path / "2" / "rows").iterdir():
        path.rename(tmp_path / "1" / "rows" / path.name)
    assert run_jobs(contest(tmp_path / "1"), progress=quiet) == []  # what failed is done now
    assert done[8:] == ["drop-2-seed-1"]


def test_standings_are_means_and_spreads_against_the_baseline_of_the_seed(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Progress(show=False)
    for _ in range(2):
        run_jobs(contest(tmp_path), progress=quiet)
    # The machine is half as fast under seed 1; `drop` is twice as fast as its baseline, `updp` of 1 block as fast.
    times = {"updp-1": 10.0, "updp-2": 8.0, "drop-1": 5.0, "drop-2": 5.0, "baseline-0": 10.0}
    ms = {f"{name}-seed-{seed}": value * (1 + seed) for name, value in times.items() for seed in (0, 1)}
    found = timing.Latencies(device="cpu", batch_size=8, accelerated=True, ms=ms)
    (tmp_path / "latency.json").write_text(found.model_dump_json())
    rows = {row.label: row for row in standings(read_comparison(tmp_path))}
    assert list(rows) == ["baseline", "updp 1", "updp 2", "drop 1", "drop 2"]
    assert rows["updp 2"].accuracies == pytest.approx((0.7, 0.72))
    assert rows["updp 2"].changes == pytest.approx((-0.2, -0.2))
    assert rows["updp 2"].speedups == pytest.approx((1.25, 1.25))
    assert rows["updp 2"].ms == pytest.approx((12.0, 12.0))  # of a baseline of 15 ms in the mean
    assert [row.label for row in front(list(rows.values()))] == ["drop 1", "baseline"]
    # What was measured is kept until other models are there.
    monkeypatch.setattr(timing, "time_side_by_side", None)
    monkeypatch.setattr(timing, "describe_device", lambda device: "cpu")
    assert measure(tmp_path, 8, device=torch.device("cpu")).ms == ms
    # Of another batch it is measured again; here no model was stored.
    with pytest.raises(ArtifactError, match="cannot be read"):
        measure(tmp_path, 4, device=torch.device("cpu"), progress=quiet)


def test_published_rows_are_of_known_methods_and_families() -> None:
    assert {row.method for row in PUBLISHED} <= {*METHODS, *WIDTHS}
    assert all(row.after is None or 50 < row.after < 90 for row in PUBLISHED)
    assert {row.method for row in published_rows(("dp", "layermerge"), "resnet")} == {"layermerge"}


@pytest.mark.parametrize("name", ["channels-constrained", pytest.param("channels", marks=pytest.mark.slow)])
def test_channels_are_removed_to_the_share_asked_for_and_can_be_trained(name: str) -> None:
    model = small().eval()
    images = torch.randn(4, 3, 32, 32)
    before = sum(parameter.numel() for parameter in model.parameters())
    found = narrow(name, model, images, 0.4)
    assert sum(parameter.numel() for parameter in found.parameters()) == pytest.approx(0.6 * before, rel=0.03)
    found.train()(images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == before


def test_the_closest_share_is_found_by_halving() -> None:
    tried: list[float] = []

    def make(ratio: float) -> nn.Module:
        tried.append(ratio)
        module = nn.Identity()
        module.ratio = ratio  # type: ignore[assignment]
        return module

    found: Any = _closest(make, lambda module: float(module.ratio) <= 0.37)  # type: ignore[arg-type]
    assert 0.37 - 0.004 < found.ratio <= 0.37
    assert len(tried) == 9


@pytest.mark.service
@pytest.mark.parametrize("family", ["resnet18", "mobilenetv2_035", "test_convnext", "test_vit"])
def test_torch_pruning_removes_as_much_and_its_models_are_stored(tmp_path: Path, family: str) -> None:
    model = made(family).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    images = torch.randn(2, 3, 32, 32)
    found = narrow("torch-pruning", model, images, 0.3)
    left = sum(parameter.numel() for parameter in found.parameters()) / before
    assert 0.7 <= left < 0.78
    updp_rt.save(found, tmp_path / "narrow", input_size=(3, 32, 32))
    with torch.no_grad():
        assert torch.equal(updp_rt.load(tmp_path / "narrow")(images), found(images))


def test_torch_pruning_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("updp_rt.comparison.width.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package: pip install --no-deps torch-pruning"):
        run_jobs(contest(tmp_path, methods=("torch-pruning",), amounts=(0.3,)), progress=Progress(show=False))


@pytest.mark.slow
def test_a_whole_comparison_on_digits(tmp_path: Path) -> None:
    """Trained, merged, narrowed, stored, timed: nothing stands in for anything."""
    asked = contest(
        tmp_path, methods=("updp", "updp:front=1", "toast", "channels"), amounts=(0.3,), num_pruned=(2,), seeds=1
    )
    assert run_jobs(asked, progress=Progress(show=False)) == []
    measure(tmp_path, 2, progress=Progress(show=False))
    rows = standings(read_comparison(tmp_path))
    assert [row.label for row in rows] == ["baseline", "updp 2", "updp:front=1", "toast 2", "channels 30%"]
    assert all(row.ms[0] > 0 for row in rows)
    assert rows[1].pruned == (2,)
    assert rows[4].params[0] < rows[0].params[0]


def test_a_model_that_fails_its_certificate_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updp_rt.save(small(), tmp_path / "it", input_size=(3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    ready = timing._ready(tmp_path / "it", images, True)
    with torch.no_grad():
        assert torch.allclose(ready(images), small().eval()(images), rtol=1e-4, atol=1e-5)

    failed = SimpleNamespace(passed=False, failed=["conv1"])
    monkeypatch.setattr(updp_rt, "verify", lambda *models: failed)
    with pytest.raises(RunError, match=r"accelerated it computes something else \(conv1\)"):
        timing._ready(tmp_path / "it", images, True)
    with torch.no_grad():
        assert torch.equal(timing._ready(tmp_path / "it", images, False)(images), small().eval()(images))
