"""The parts of the stages: λ's schedules, sandwich rule, calibration, recalibration, latency, training loop."""

from __future__ import annotations

import copy
import itertools
import json
import random
import statistics
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.pruning.conftest import small_model, small_split
from updp_rt._timing import paced, time_side_by_side
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import ProgressiveBlock, inspect, make_progressive, progressive_blocks, prunable_blocks
from updp_rt.data import first_images, make_loader
from updp_rt.methods import find_method
from updp_rt.pruning import PruneConfig, Run
from updp_rt.pruning.latency import BlockLatency, LatencyTable, measure_latency
from updp_rt.pruning.pipeline import merge_folder, run_stages
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.progressive import lambda_at, progressive_losses, ramp_steps
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.supernet import calibrate, sandwich_losses
from updp_rt.pruning.trainer import Recipe, evaluate, fit, label_losses, make_accelerator, rate


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_lambda_rises_from_zero_to_one_and_stays(schedule: str) -> None:
    values = [lambda_at(step, 10, schedule) for step in range(15)]
    assert values[0] == 0.0
    assert values[10:] == [1.0] * 5
    assert all(a < b for a, b in itertools.pairwise(values[:11]))
    assert values[5] == pytest.approx(0.5)
    assert lambda_at(0, 0, schedule) == 1.0  # direct


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    rates = [rate(step, 100, 0.1) for step in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert 0 < rates[0] < rates[5] < 1
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    held = [rate(step, 100, 0.1, hold=0.3) for step in range(101)]
    assert held[:10] == rates[:10]
    assert held[10:31] == [1.0] * 21
    assert held[31] < 1.0
    assert held[100] == pytest.approx(0.0, abs=1e-12)


def test_the_sandwich_holds_the_largest_the_smallest_and_random_subnets() -> None:
    subnet = make_progressive(small_model()).train()
    seen: list[list[float]] = []
    subnet.register_forward_pre_hook(lambda m, _: seen.append([b.lam for b in progressive_blocks(m).values()]))
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
    for loss in sandwich_losses(0, 2)(subnet, images, labels, 7):
        loss.backward()
    assert seen[0] == [0.0] * 6
    assert seen[1] == [1.0] * 6
    assert all(0 < sum(lams) < 6 for lams in seen[2:])
    assert len(seen) == 4
    again: list[Tensor] = list(sandwich_losses(0, 2)(subnet, images, labels, 7))
    assert len(again) == 4
    assert seen[4:] == seen[:4]  # the step alone decides which subnets


def test_the_smallest_subnet_learns_the_largest_ones_outputs_not_the_labels() -> None:
    subnet = make_progressive(small_model()).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        a = [float(x) for x in sandwich_losses(0, 1)(subnet, images, torch.zeros(4, dtype=torch.long), 0)]
        b = [float(x) for x in sandwich_losses(0, 1)(subnet, images, torch.ones(4, dtype=torch.long), 0)]
    assert a[0] != b[0]
    assert a[1:] == b[1:]


@pytest.mark.parametrize("name", ["test_vit", "resnet18", "mobilenetv2_050", "convnext_atto"])
def test_calibration_brings_the_pruned_form_closer_and_leaves_the_baseline(name: str) -> None:
    """Up to what closes the block, which is no part of the fit."""
    arguments = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    loader = make_loader(small_split("train", 64), 32, training=True)
    subnet = make_progressive(model).eval()
    for block in progressive_blocks(subnet).values():
        block.activation = block.end = lambda y=None: nn.Identity() if y is None else y  # type: ignore[method-assign]
        for norm in block.norms.values():  # as norms of another network would be
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    images = first_images(loader, 64)

    def error(block: ProgressiveBlock, x: Tensor) -> Tensor:
        block.lam = 0.0
        wanted = block(x)
        block.lam = 1.0
        found = block(x)
        block.lam = 0.0
        return (found - wanted).square().mean()

    with torch.no_grad():
        wanted = subnet(images)
        seen: dict[str, Tensor] = {}
        for key, block in progressive_blocks(subnet).items():
            block.register_forward_pre_hook(lambda _, args, key=key: seen.setdefault(key, args[0].clone()))
        subnet(images)
        before = {key: error(block, seen[key]) for key, block in progressive_blocks(subnet).items()}
        calibrate(subnet, images)
        assert torch.equal(subnet(images), wanted)
        for key, block in progressive_blocks(subnet).items():
            assert error(block, seen[key]) < before[key], key


def test_recalibration_sets_statistics_to_the_plain_mean_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    unused = nn.BatchNorm2d(4)
    unused.running_mean.fill_(3.0)
    model.add_module("unused", nn.Identity())
    model.get_submodule("unused").add_module("norm", unused)
    weights = copy.deepcopy(dict(model.named_parameters()))
    batches = [torch.randn(5, 3, 8, 8) for _ in range(3)]
    model.train()
    recalibrate(model, batches)
    with torch.no_grad():
        maps = [model[0](batch) for batch in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert model.training
    assert model[1].momentum == 0.1
    assert torch.equal(unused.running_mean, torch.full((4,), 3.0))
    assert all(torch.equal(value, weights[key]) for key, value in model.named_parameters())


@pytest.mark.usefixtures("measured")
def test_side_by_side_timing_takes_turns_and_gives_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the candidates move: the slow one drifts, and is hit by a spike."""
    now, order, drift = 0.0, [], iter([0.0] * 3 + [1.0, 2.0, 90.0, 3.0, 4.0])

    def slow() -> None:
        nonlocal now
        now += 5.0 + next(drift)
        order.append("slow")

    def fast() -> None:
        nonlocal now
        now += 2.0
        order.append("fast")

    monkeypatch.setattr("updp_rt._timing.time.perf_counter", lambda: now)
    times = time_side_by_side({"slow": slow, "fast": fast}, rounds=5)
    assert times == pytest.approx({"slow": 8.0, "fast": 2.0})
    assert order[-10:] == ["slow", "fast", "fast", "slow", "fast", "slow", "slow", "fast", "slow", "fast"]


def test_what_slows_a_whole_round_down_is_not_seen_in_ratios() -> None:
    """Two candidates within 2% of each other, on a machine that is up to twice as slow in some rounds, and jitters."""
    rng = random.Random(0)
    pace = [rng.uniform(1.0, 2.0) for _ in range(101)]
    times = {"a": 1.0, "b": 1.02, "c": 7.0}
    samples = {name: [ms * slow * rng.uniform(0.995, 1.005) for slow in pace] for name, ms in times.items()}
    found = {name: statistics.median(values) for name, values in paced(samples).items()}
    assert found["b"] / found["a"] == pytest.approx(1.02, abs=2e-3)
    assert found["c"] / found["a"] == pytest.approx(7.0, rel=2e-3)
    assert found["a"] == pytest.approx(statistics.median(pace), rel=0.02)
    assert paced({"alone": [3.0, 1.0, 2.0]})["alone"] == pytest.approx([2.0, 2.0, 2.0])
    assert paced({"none": [0.0, 1.0], "one": [1.0, 1.0]})["none"][0] == 0.0


@pytest.mark.usefixtures("measured")
def test_over_the_rounds_each_candidate_runs_after_every_other_equally_often() -> None:
    for count in (2, 3, 4, 5):
        order: list[int] = []
        time_side_by_side(
            {name: partial(order.append, name) for name in range(count)}, rounds=2 * count, round_seconds=0
        )
        turns = torch.tensor(order[-2 * count * count :]).view(-1, count).tolist()
        pairs = Counter(pair for turn in turns for pair in itertools.pairwise(turn))
        assert pairs == dict.fromkeys(itertools.permutations(range(count), 2), 2)


def test_the_latency_table_measures_every_form_of_every_block() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    table = measure_latency(model, torch.randn(2, 3, 64, 64))
    assert list(table.blocks) == prunable_blocks(model)
    for block in table.blocks.values():
        assert {body: set(forms) for body, forms in block.merged_ms.items()} == {
            "shrunk": {"conv"},
            "full": {"conv", "factored"},
        }
        assert block.baseline_ms > 0
    assert table.blocks["layer1.0"] == table.blocks["layer1.1"]  # same structure and shape: timed once
    bodies = table.choose_bodies(["layer1.0"], "full")
    assert bodies == {"layer1.0": "full"}
    assert table.estimate_ms({}) == table.model_ms
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table


@pytest.mark.slow
def test_costs_and_latencies_are_of_the_images_at_hand(tmp_path: Path) -> None:
    """A CNN's timm configuration says 224; the data say 32."""
    model = timm.create_model("mobilenetv2_035", depth_multiplier=0.5, num_classes=10)
    config = PruneConfig(num_pruned=2, supernet_epochs=0, trials=1, epochs=1, batch_size=16)
    run = Run(model, small_split("train", 32), small_split("val", 16), tmp_path, config, show_progress=False)
    assert run.example.shape == (16, 3, 32, 32)
    run_stages(run)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["input_size"] == [3, 32, 32]
    assert summary["baseline"]["macs"] == inspect(model, (3, 32, 32)).cost.macs
    assert read_manifest(tmp_path / "merged").input_size == (3, 32, 32)
    assert read_manifest(merge_folder(tmp_path, tmp_path / "again")).input_size == (3, 32, 32)


def settings_of(folder: Path, reuse: Path | None = None, **given: Any) -> PruneConfig:
    """Those of a run of three steps an epoch, as it is begun; one that reuses another is not."""
    config = PruneConfig(num_pruned=2, batch_size=16, **given)
    data = small_split("train", 48), small_split("val", 16)
    run = Run(small_model(), *data, folder, config, reuse=reuse, show_progress=False)
    if reuse is None:
        with run.claimed():
            assert run.identity["config"] == run.config.model_dump()
    return run.config


def test_the_supernet_is_trained_where_steps_are_many_or_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was begun otherwise goes on so, and one that takes its supernet is as it is."""
    monkeypatch.setattr("updp_rt.pruning.method.FEW", 30)
    assert settings_of(tmp_path / "few", epochs=9).supernet_epochs == 0
    assert settings_of(tmp_path / "many", epochs=10).supernet_epochs == 4
    assert settings_of(tmp_path / "asked", epochs=9, supernet_epochs=2).supernet_epochs == 2
    monkeypatch.setattr("updp_rt.pruning.method.FEW", 300)
    assert settings_of(tmp_path / "many", epochs=10).supernet_epochs == 4
    assert settings_of(tmp_path / "other", epochs=12, reuse=tmp_path / "many").supernet_epochs == 4
    assert PruneConfig(num_pruned=2, method="drop").supernet_epochs == 4
    assert find_method("depthshrinker").fill(PruneConfig(num_pruned=2), 1).supernet_epochs == 4


def test_lambda_rises_sooner_where_steps_are_few_unless_a_ramp_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was begun otherwise goes on so; one that takes its supernet has its own ramp."""
    monkeypatch.setattr("updp_rt.pruning.method.SHORT", 30)
    assert settings_of(tmp_path / "few", epochs=9).ramp == 0.1
    assert settings_of(tmp_path / "few direct", epochs=9, direct=True).ramp == 0.1, "at the same rates, to compare with"
    assert settings_of(tmp_path / "many", epochs=10).ramp == 0.3
    assert settings_of(tmp_path / "asked", epochs=9, ramp=0.3).ramp == 0.3
    monkeypatch.setattr("updp_rt.pruning.method.SHORT", 3)
    assert settings_of(tmp_path / "few", epochs=9).ramp == 0.1
    monkeypatch.setattr("updp_rt.pruning.method.SHORT", 300)
    assert settings_of(tmp_path / "many", epochs=10).ramp == 0.3
    assert settings_of(tmp_path / "other", epochs=12, reuse=tmp_path / "many").ramp == 0.1


def test_a_form_must_be_clearly_faster_to_replace_the_first() -> None:
    noise = BlockLatency(baseline_ms=2.0, merged_ms={"a": {"x": 1.00, "y": 0.95}, "b": {"x": 0.93}})
    assert noise.best_form("a") == "x"
    assert noise.best_body() == "a"
    clear = BlockLatency(baseline_ms=2.0, merged_ms={"a": {"x": 1.0, "y": 0.5}, "b": {"x": 0.1}})
    assert clear.best_form("a") == "y"
    assert clear.best_body() == "b"


def _fit(folder: Path, epochs: int, stop_after: int | None = None) -> nn.Module:
    model = small_model()
    loader = make_loader(small_split("train", 48), 16, training=True, seed=3)
    epochs_done = 0

    def count(_: nn.Module) -> dict[str, float]:
        nonlocal epochs_done
        epochs_done += 1
        if epochs_done == stop_after:
            raise KeyboardInterrupt
        return {}

    fit(
        model,
        loader,
        label_losses(),
        Recipe(epochs, 1e-3, seed=3),
        stage="test",
        accelerator=make_accelerator(),
        progress=Progress(show=False),
        checkpoint=folder / "test.ckpt",
        after_epoch=count,
    )
    return model


def test_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "stopped", 4, stop_after=3)
    resumed = _fit(tmp_path / "stopped", 4)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "test.ckpt").write_bytes(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError):
        _fit(tmp_path, 1)


def test_progressive_training_sets_lambda_before_each_step() -> None:
    subnet = make_progressive(small_model(), ["blocks.0", "blocks.3"])
    losses = progressive_losses(4)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    for step, wanted in enumerate((0.0, 0.25, 0.5, 0.75, 1.0, 1.0)):
        list(losses(subnet, images, labels, step))
        assert {block.lam for block in progressive_blocks(subnet).values()} == {wanted}


@pytest.mark.parametrize(
    ("share", "steps", "wanted"),
    [(0.3, 1000, 300), (0.3, 12, 6), (0.3, 3, 2), (0.3, 2, 1), (0.3, 1, 0), (0.99, 20, 19)],
)
def test_a_ramp_is_made_longer_where_the_steps_are_few(share: float, steps: int, wanted: int) -> None:
    """No fewer than ten steps or half of them, and the last step is one at λ = 1."""
    assert ramp_steps(share, steps) == wanted
    assert lambda_at(steps - 1, wanted) == 1.0


def test_distillation_mixes_the_teachers_outputs_in() -> None:
    student, teacher = small_model(0).eval(), small_model(1).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
    with torch.no_grad():
        plain, soft, half = (
            float(next(progressive_losses(0, teacher=teacher, distill=d)(student, images, labels, 0)))
            for d in (0.0, 1.0, 0.5)
        )
    assert half == pytest.approx((plain + soft) / 2)
    assert plain != soft


def test_accuracy_by_hand() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    images = torch.eye(4).view(4, 4, 1, 1)
    loader = make_loader(TensorDataset(images, torch.tensor([0, 1, 0, 3])), 3, training=False)
    assert evaluate(Fixed(), loader) == 0.75
    with pytest.raises(ValueError, match="holds no images"):
        make_loader(TensorDataset(images[:0], torch.zeros(0)), 3, training=False)
