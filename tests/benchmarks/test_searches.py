"""The study of what searches find: which cases there are, what its table says, one from a trained baseline on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.protocol import run
from benchmarks.settings import Settings
from benchmarks.studies import searches
from benchmarks.studies.kendall import Score
from benchmarks.studies.progressive_vs_direct import Budget


def test_the_table_has_the_mean_of_each_engine() -> None:
    settings = Settings(data="digits", seeds=(0, 1), models=("small_convnext",))
    cases = list(searches.cases(settings))
    assert len({case.key for case in cases}) == len(cases) == 2 * len(searches.BODIES) * len(searches.TRIALS)
    rows: list[dict[str, Any]] = []
    for case in cases:
        for place, engine in enumerate(case.candidates):
            score = {"loss": 0.5 + 0.1 * place, "accuracy": 0.8 + 0.01 * case.about["seed"]}
            rows.append({"case": case.key, **case.about, "candidate": engine, **score})
    (grid,) = searches.tables(rows[:-1])  # the last one was stopped
    assert [row[:4] for row in grid.rows] == [
        ["small_convnext", "merged", "24", "0, 1"],
        ["small_convnext", "merged", "48", "0, 1"],
        ["small_convnext", "skip", "24", "0, 1"],
        ["small_convnext", "skip", "48", "0"],
    ]
    assert list(grid.rows[0][4:]) == ["0.500", "0.600", "0.700", *["80.50 ± 0.71"] * 3]


@pytest.mark.slow
def test_a_case_from_a_trained_baseline_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PRUNING_IMAGES", 64), ("CHOOSING_IMAGES", 40), ("CALIBRATION", 32), ("RECALIBRATION", 32)):
        monkeypatch.setattr(searches, name, value)
    monkeypatch.setattr(searches, "TRIALS", (14,))
    monkeypatch.setattr("benchmarks.studies.images.TRAIN", 64)
    monkeypatch.setitem(searches.SCANS, "small_resnet", Budget(1, 1e-3, 1, 1e-3))
    asked: list[tuple[int, int]] = []
    judge = searches.judge

    def judging(supernet: Any, blocks: Any, val: Any, batches: Any) -> Score:
        asked.append((len(blocks), len(val.dataset)))
        return judge(supernet, blocks, val, batches)

    monkeypatch.setattr(searches, "judge", judging)
    given: dict[str, Any] = {"data": "digits", "image_size": 32, "seeds": (0,), "models": ("small_resnet",)}
    settings = Settings(device="cpu", out=tmp_path, work=tmp_path / "work", **given)
    record = run(searches.SUITE, settings, Console(quiet=True))
    assert not [row for row in record.rows if "wrong" in row]
    assert {row["candidate"] for row in record.rows} == set(searches.ENGINES)
    assert {row["pruned"] for row in record.rows} == {4}
    assert {images for _, images in asked} == {40}
    assert {size for size, _ in asked} == {0, 1, 4}
    assert len(searches.tables(record.rows)[0].rows) == 2
