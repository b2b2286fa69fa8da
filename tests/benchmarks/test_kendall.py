"""The study of what a supernet tells: τ itself, the space, the tables, and a whole run on a few digits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import kendalltau

from benchmarks.protocol import run
from benchmarks.results import read, write
from benchmarks.samples import kendall_tau
from benchmarks.settings import Settings
from benchmarks.studies import kendall
from benchmarks.studies.progressive_vs_direct import Budget


def test_tau_is_the_published_one() -> None:
    """With ties and without, against another implementation."""
    draw = np.random.default_rng(0)
    for count in (2, 5, 15, 28):
        a, b = draw.normal(size=count).tolist(), draw.normal(size=count).tolist()
        assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
        tied = [float(value) for value in draw.integers(0, 4, count)]
        assert kendall_tau([*a, 9.0], [*tied, 5.0]) == pytest.approx(
            kendalltau([*a, 9.0], [*tied, 5.0]).statistic, abs=1e-12
        )
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall_tau([1, 2, 3], [1, 1, 1]))


def test_with_groups_pairs_of_one_group_count() -> None:
    """The groups are in the wrong order, what is within them in the right one."""
    assert kendall_tau([1, 2, 8, 9], [5, 6, 1, 2], "aabb") == 1
    assert kendall_tau([1, 2, 8, 9], [5, 6, 1, 2]) == pytest.approx(-1 / 3)
    assert math.isnan(kendall_tau([1, 2], [1, 2], "ab"))


def test_the_space_is_every_subset_once_a_seed() -> None:
    cases = list(kendall.cases(Settings(data="digits", seeds=(0, 1))))
    assert len(cases) == len({case.key for case in cases}) == 2 * (2**5 - 1)
    assert len({case.about["blocks"] for case in cases}) == 31
    assert {case.group for case in cases} == {"small_resnet seed 0", "small_resnet seed 1"}
    first = [case.about["blocks"] for case in cases[:4]]
    assert first != sorted(first), "a study that is stopped has seen the first blocks alone"


def rows_of(
    seed: int, alone: dict[str, float], judged: dict[tuple[str, str], dict[str, float]]
) -> list[dict[str, Any]]:
    """Of a study in which some judges are given, and the others know nothing."""
    about = {"model": "small_resnet", "data": "digits", "seed": seed, "epochs": 2}
    rows = []
    for blocks, accuracy in alone.items():
        values: dict[str, dict[str, float]] = {name: {"accuracy": 0.5, "loss": 1.0} for name in kendall.JUDGES}
        values["alone"] = {"accuracy": accuracy}
        for (name, by), of in judged.items():
            values[name][by] = of[blocks]
        for candidate, value in values.items():
            rows.append({"case": f"{blocks} seed {seed}", **about, "blocks": blocks, "candidate": candidate, **value})
    return rows


def test_tables_tell_how_far_each_choice_is_from_the_best(tmp_path: Path) -> None:
    """Of three subsets of two the supernet swaps the two best; its loss is right: less of it is better."""
    alone = {"0 1": 0.90, "0 2": 0.88, "1 2": 0.80, "0": 0.92}
    judged = {
        ("supernet", "accuracy"): {"0 1": 0.6, "0 2": 0.7, "1 2": 0.5, "0": 0.1},
        ("supernet", "loss"): {"0 1": 0.2, "0 2": 0.4, "1 2": 0.9, "0": 0.1},
    }
    other = {"0 1": 0.80, "0 2": 0.88, "1 2": 0.90, "0": 0.92}
    rows = rows_of(0, alone, judged) + rows_of(1, other, judged)
    write(tmp_path / "kendall.csv", {"suite": "kendall"}, rows)
    (grid,) = kendall.tables(read(tmp_path / "kendall.csv").rows)
    found = {tuple(row[:2]): tuple(row[2:]) for row in grid.rows}
    assert found["supernet", "accuracy"] == ("0, 1", "-0.50 ± 0.24", "0.00 ± 0.47", "1.00 ± 0.00")
    assert found["supernet", "loss"] == ("0, 1", "0.50 ± 0.71", "0.00 ± 1.41", "2.50 ± 3.54")
    assert found["table", "loss"][1:3] == ("-", "-")
    assert "Seed 0: 4 subsets, alone 80.00 to 92.00%" in grid.notes[0]
    assert grid.notes[-1] == "Seeds 0 and 1, alone against alone: τ 0.00."
    (one,) = kendall.tables([row for row in rows if row["seed"] == 0 and row["blocks"] in ("0 1", "0 2")])
    assert one.rows[0][3:5] == ["-1.00", "-1.00"]


@pytest.mark.slow
def test_a_study_from_its_training_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few digits, two blocks; stopped after one case it goes on with the same supernets."""
    for name, value in (("SPACE", 2), ("BRIEF_STEPS", 1), ("IMAGES", 64), ("TEST_IMAGES", 50)):
        monkeypatch.setattr(kendall, name, value)
    monkeypatch.setattr(kendall, "SUPERNETS", {"supernet": 1, "longer": 2})
    monkeypatch.setattr("benchmarks.studies.images.TRAIN", 64)
    monkeypatch.setitem(kendall.SCANS, "small_resnet", Budget(1, 1e-3, 1, 1e-3))
    given: dict[str, Any] = {"data": "digits", "image_size": 32, "epochs": 1, "seeds": (0,)}
    settings = Settings(device="cpu", out=tmp_path, work=tmp_path / "work", **given)
    every = list(kendall.cases(settings))
    run(replace(kendall.SUITE, cases=lambda settings: iter(every[:1])), settings, Console(quiet=True))
    supernets = sorted((tmp_path / "work" / "supernets").glob("*.safetensors"))
    made = [each.stat().st_mtime_ns for each in supernets]
    kendall.space_of.cache_clear()
    record = run(kendall.SUITE, replace(settings, resume=True), Console(quiet=True))
    kendall.space_of.cache_clear()
    assert [each.stat().st_mtime_ns for each in supernets] == made
    assert len(made) == 2
    assert not [row for row in record.rows if "wrong" in row]
    assert {row["candidate"] for row in record.rows} == {"alone", *kendall.JUDGES}
    assert {row["names"] for row in record.rows} == {"layer1.0", "layer3.0", "layer1.0 layer3.0"}
    assert len(record.rows) == 3 * 6
    (grid,) = kendall.tables(record.rows)
    assert [tuple(row[:2]) for row in grid.rows] == list(product(kendall.JUDGES, kendall.BY))
