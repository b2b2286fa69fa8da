"""The tables of UPDP and its rivals: which cases there are, and what the tables say of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from rich.console import Console

from benchmarks.protocol import Record, run
from benchmarks.results import read
from benchmarks.settings import Settings
from benchmarks.studies import field
from benchmarks.studies.progressive_vs_direct import Budget
from updp_rt.comparison import WIDTHS, Contest, Job
from updp_rt.comparison.jobs import Outcome
from updp_rt.methods import METHODS
from updp_rt.pruning.config import PruneConfig


def test_every_method_has_its_rows_and_a_goal_that_it_takes() -> None:
    for table, (methods, models) in field.TABLES.items():
        cases = list(field.cases(table, Settings(data="fashion-mnist", seeds=(0, 1))))
        assert len({case.key for case in cases}) == len(cases)
        assert {case.about["method"] for case in cases} == set(methods)
        assert {case.about["model"] for case in cases} == set(models)
        assert all(method.partition(":")[0] in (*METHODS, *WIDTHS) for method in methods)
        shares = {case.about["method"]: set() for case in cases}
        for case in cases:
            shares[case.about["method"]].add(case.about["share"])
        alone = [method for method, taken in shares.items() if len(taken) == 1]
        at_one = (*WIDTHS, *field.NARROWING, field.TRAINED)
        assert set(alone) == set(methods) & set(at_one)
        seeds = [case.about["seed"] for case in cases]
        assert seeds == sorted(seeds)
    every = {method for methods, _ in field.TABLES.values() for method in methods}
    assert every >= {*METHODS, *WIDTHS}, "a method has no row in any table"


def test_some_methods_shares_and_models_are_asked_for() -> None:
    settings = Settings(data="digits", seeds=(3,), methods=("dp",), amounts=(0.25,), models=("small_convnext",))
    (case,) = field.cases("field_cnn", settings)
    assert case.key == "small_convnext on digits, dp at 0.25, seed 3"
    with pytest.raises(ValueError, match="unknown method 'hvt': choose among drop, updp"):
        next(field.cases("field_cnn", Settings(methods=("hvt",))))


Done = list[tuple[str, Job, PruneConfig]]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """The jobs that a stand-in did: six blocks of a MobileNetV2; 40 of 100 images fewer are right under each seed."""
    model = timm.create_model("mobilenetv2_035", num_classes=10).eval()
    done: Done = []

    def do_job(contest: Contest, job: Job) -> Outcome:
        assert contest.create(0) is model
        config = PruneConfig.model_validate({**contest.config.settings, "num_pruned": 1})
        done.append((contest.folder.name, job, config))
        return Outcome(method=job.method, goal=job.goal, seed=job.seed, accuracy=0.5 + 0.01 * job.seed, pruned=6)

    splits = SimpleNamespace(val=[], test=range(9), first=lambda train, val: splits)
    images = SimpleNamespace(size=(3, 32, 32), splits=splits)
    monkeypatch.setattr(field, "trained", lambda name, seed, *rest: (images, model, 0.9 + 0.01 * seed))
    monkeypatch.setattr(field, "replace", lambda splits, test: splits)
    monkeypatch.setattr(field, "do_job", do_job)
    monkeypatch.setattr(field.updp_rt, "load", lambda folder: model)
    monkeypatch.setattr(field, "ready", lambda model, example: partial(torch.sum, example))
    return done


def measured(folder: Path, **given: Any) -> Record:
    about: dict[str, Any] = {"amounts": (0.35,), "models": ("small_mobilenetv2",), "data": "fashion-mnist", **given}
    settings = Settings(device="cpu", out=folder, work=folder, rounds=3, **about)
    return run(field.CNN, settings, Console(quiet=True))


def test_a_case_is_timed_beside_its_baseline_and_is_told(tmp_path: Path, done: Done) -> None:
    record = measured(tmp_path, methods=("dp",), seeds=(0, 1))
    assert [job for _, job, _ in done] == [Job("dp", 6, 0), Job("dp", 6, 1)]
    assert done[0][2].lr == field.SCANS["small_mobilenetv2"].lr
    (grid,) = field.tables(read(record.path).rows)
    ((method, pruned, seeds, accuracy, change, ratio, published),) = grid.rows
    assert (method, pruned, seeds) == ("dp", "6", "0, 1")
    assert accuracy == "50.50 ± 0.71"
    assert change == "-40.00 ± 0.00"
    assert 0.2 < float(ratio.split()[0]) < 5
    assert published == "MobileNetV2-1.0, T0 = 25: 72.89 to 72.83, 1.41× on an RTX 2080 Ti, TensorRT"
    assert grid.notes[0].startswith("Baselines, of 17 blocks: 90.50 ± 0.71")


def test_updp_is_asked_for_the_speed_up_that_its_rival_has_there(tmp_path: Path, done: Done) -> None:
    """What a file holds of shares has fewer digits than they have."""
    third: dict[str, Any] = {"amounts": (1 / 3,)}
    record = measured(tmp_path, methods=(field.EQUAL,), seeds=(0,), **third)
    assert not done
    assert {row["left_out"] for row in record.rows} == {"it is asked for the speed-up of drop, which was not measured"}
    measured(tmp_path, methods=(field.RIVAL,), seeds=(0, 1), resume=True, **third)
    record = measured(tmp_path, methods=(field.EQUAL,), seeds=(0, 1), resume=True, **third)
    ms = {(row["seed"], row["candidate"]): row["median_ms"] for row in record.rows if row["method"] == field.RIVAL}
    ratios = [round(ms[seed, "baseline"] / ms[seed, "pruned"], 2) for seed in (0, 1)]
    asked = [Job(f"{field.EQUAL}:target_speedup={ratio}", 0, seed) for seed, ratio in enumerate(ratios)]
    assert [job for _, job, _ in done] == [Job("drop", 6, 0), Job("drop", 6, 1), *asked]


@pytest.mark.slow
def test_a_table_from_its_training_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few digits, one epoch each: nothing stands in for anything."""
    for name, value in (("PRUNING_IMAGES", 64), ("TEST_IMAGES", 50), ("TRIALS", 2), ("EPOCHS", 1)):
        monkeypatch.setattr(field, name, value)
    monkeypatch.setattr("benchmarks.studies.images.TRAIN", 64)
    monkeypatch.setitem(field.SCANS, "small_resnet", Budget(1, 1e-3, 1, 1e-3))
    settings = Settings(
        device="cpu",
        out=tmp_path,
        work=tmp_path / "work",
        data="digits",
        image_size=32,
        rounds=3,
        methods=("updp", "toast"),
        models=("small_resnet",),
        seeds=(0,),
        amounts=(0.5,),
    )
    record = run(field.CNN, settings, Console(quiet=True))
    assert not [row for row in record.rows if "wrong" in row]
    (grid,) = field.tables(record.rows)
    assert [tuple(row[:2]) for row in grid.rows] == [("updp", "4"), ("toast", "4")]


def test_predicted_speed_ups_are_told_beside_those_measured(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    assert field.predicted(summary) == {}
    for written, found in (("{}", {}), ('{"prediction": null}', {})):
        summary.write_text(written)
        assert field.predicted(summary) == found
    summary.write_text('{"prediction": {"predicted_speedup": 1.3, "off": 0.0}}')
    assert field.predicted(summary) == {"predicted_speedup": 1.3}
    seeds = enumerate((1.32, 1.2, None))
    rows = [row for seed, guess in seeds for row in case("updp", seed, 0.9, 1.2, predicted_speedup=guess)]
    (grid,) = field.tables(rows)
    assert grid.notes[1] == (
        "UPDP's search predicted these speed-ups of what it chose within 5.0% in the mean, and 10.0% at most "
        "(2 models)."
    )


def case(method: str, seed: int, accuracy: float, speedup: float, **more: Any) -> list[dict[str, Any]]:
    """Rows of a method under a seed, on a baseline of 12 ms."""
    about = {"model": "m", "data": "d", "share": 0.5, "epochs": 1, "method": method, "blocks": 8, "family": "resnet"}
    about |= {"case": f"{method} seed {seed}", "seed": seed}
    more = {key: value for key, value in more.items() if value is not None}
    return [
        {**about, "candidate": "baseline", "median_ms": 12.0, "accuracy": 0.9},
        {**about, "candidate": "pruned", "median_ms": 12.0 / speedup, "accuracy": accuracy, "pruned": 4, **more},
    ]


def test_a_table_says_which_seeds_another_device_measured() -> None:
    other = partial(case, accuracy=0.9, speedup=1.2, device="two")
    rows = [*case("drop", 0, 0.9, 1.2), *other("drop", 2), *other("updp", 1), *other("updp", 2)]
    (grid,) = field.tables(rows)
    assert "Measured on two: seeds 1, 2." in grid.notes


def test_each_rival_is_told_what_updp_adds_to_it_at_no_less_speed() -> None:
    skip, affine = "updp:body=skip", "updp:body=affine"
    rows = [
        *case("dp", 0, 0.85, 1.1),
        *case("toast", 0, 0.80, 2.5),
        *case("drop", 0, 0.86, 1.5),
        *case("drop", 1, 0.87, 1.7),
        *case("updp:direct=true", 0, 0.89, 1.6),  # no way of fading, though it is the best
        *case("updp", 0, 0.88, 1.2),
        *case("updp", 1, 0.90, 1.2),
        *case(affine, 2, 0.99, 3.0),  # under no seed of the others
        *case(skip, 0, 0.87, 1.58),  # slower than `drop` by 1.25%: level
        *case(skip, 1, 0.86, 1.58),
    ]
    (grid,) = field.tables(rows)
    assert [row[0] for row in grid.rows] == [
        "drop", "updp", skip, affine, "updp:direct=true", "dp", "toast",
    ]  # fmt: skip
    column = list(grid.columns).index(field.AHEAD)
    ahead = {row[0]: row[column] for row in grid.rows}
    assert ahead["drop"] == "+0.00 ± 1.41 (body=skip)"
    assert ahead["dp"] == "+3.00 (updp)"
    assert {ahead[method] for method in ("toast", "updp", skip, affine, "updp:direct=true")} == {"-"}
    assert "Fading, against λ = 1 from the start: -1.00 points." in grid.notes
    width = [*case("channels", 0, 0.9, 1.1), *case("torch-pruning", 0, 0.9, 1.1)]
    (grid,) = field.tables(width)
    assert field.AHEAD not in grid.columns
