"""The study of what fading adds: which cases there are, what table and picture say of them, one from training on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from benchmarks.commands import run
from benchmarks.pictures import draw_fading
from benchmarks.results import by_case, read, write
from benchmarks.settings import Settings
from benchmarks.studies import fading
from benchmarks.studies.progressive_vs_direct import Budget
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.trainer import Losses


def rows_of(seed: int, epochs: int, gains: dict[str, float], pruned: int = 4) -> list[dict[str, Any]]:
    """A case whose subnet has 80% without fading, and so many points more with each way that is named."""
    about: dict[str, Any] = {
        "case": f"{epochs} {seed} {pruned}",
        "model": "small_resnet",
        "data": "digits",
        "seed": seed,
        "epochs": epochs,
    }
    about |= {"lr": 5e-4, "steps": 100 * epochs, "baseline": 0.9, "pruned": pruned, "blocks": 8}
    return [{**about, "candidate": name, "accuracy": 0.8 + gains.get(name, 0.0)} for name in fading.ARMS]


def test_every_budget_once_a_seed() -> None:
    cases = list(fading.cases(Settings(data="digits", seeds=(0, 1))))
    assert len(cases) == len({case.key for case in cases}) == 2 * len(fading.EPOCHS) * len(fading.SHARES)
    assert [case.about["epochs"] for case in cases[: len(fading.EPOCHS)]] == list(fading.EPOCHS)
    (one, two) = fading.cases(Settings(data="digits", seeds=(0, 1), amounts=(0.5,), epochs=5, lr=1e-3))
    assert one.key == "small_resnet on digits, 0.50 of its blocks, 5 epochs at 0.001, seed 0"
    assert two.group == "small_resnet seed 1"


def test_tables_say_what_each_way_adds_by_budget(tmp_path: Path) -> None:
    rows = [
        *rows_of(1, 9, {"ramp 0.3": 0.04}),
        *rows_of(0, 9, {"ramp 0.3": 0.02}),
        *rows_of(0, 1, {"ramp 0.3": -0.01}),
        *rows_of(1, 3, {})[:-1],  # stopped before its last way
        *rows_of(0, 1, {}, pruned=8),
    ]
    write(tmp_path / "fading.csv", {"suite": "fading"}, rows)
    read_rows = read(tmp_path / "fading.csv").rows
    grid, whole = fading.tables(read_rows)
    assert grid.title == "4 of the 8 blocks of small_resnet on digits, at 0.0005"
    assert whole.rows[0][:4] == ["1", "100", "0", "80.00"]
    place = grid.columns.index("ramp 0.3, points")
    assert [(row[0], row[1], row[2], row[3], row[place]) for row in grid.rows] == [
        ("1", "100", "0", "80.00", "-1.00"),
        ("9", "900", "0, 1", "80.00 ± 0.00", "+3.00 ± 1.41"),
    ]
    assert grid.notes[0].startswith("The baselines have 90.00")
    axes, _ = [axes for axes in draw_fading(list(by_case(read_rows).values()), "here").axes if axes.get_visible()]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "900"]
    (line,) = [line for line, *_ in axes.containers if line.get_color() == axes.containers[1][0].get_color()]
    assert list(line.get_ydata()) == pytest.approx([-1.0, 3.0])


@pytest.mark.slow
def test_a_case_from_its_training_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IMAGES", 64), ("TEST_IMAGES", 50), ("CALIBRATION", 32)):
        monkeypatch.setattr(fading, name, value)
    monkeypatch.setattr("benchmarks.studies.images.TRAIN", 64)
    monkeypatch.setitem(fading.SCANS, "small_resnet", Budget(1, 1e-3, 1, 1e-3))
    asked: list[tuple[int, str, float]] = []

    def losses(ramp: int, schedule: str, *, teacher: nn.Module | None, distill: float) -> Losses:
        assert (teacher is not None) is (distill > 0)
        asked.append((ramp, schedule, distill))
        return progressive_losses(ramp, schedule, teacher=teacher, distill=distill)

    monkeypatch.setattr(fading, "progressive_losses", losses)
    given: dict[str, Any] = {"data": "digits", "image_size": 32, "epochs": 30, "seeds": (0,), "amounts": (0.5,)}
    record = run(
        fading.SUITE, Settings(device="cpu", out=tmp_path, work=tmp_path / "work", **given), Console(quiet=True)
    )
    assert not [row for row in record.rows if "wrong" in row]
    assert [row["candidate"] for row in record.rows] == list(fading.ARMS)
    assert {row["steps"] for row in record.rows} == {60}
    assert asked == [
        (0, "linear", 0.0),
        (10, "linear", 0.0),
        (18, "linear", 0.0),
        (30, "linear", 0.0),
        (18, "cosine", 0.0),
        (0, "linear", 0.5),
        (18, "linear", 0.5),
    ]
    (grid,) = fading.tables(record.rows)
    assert list(grid.rows[0][:2]) == ["30", "60"]
