"""Other runtimes in the suites: which of them, and the ratios that are told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.others import run_exported, run_in, runtimes
from benchmarks.protocol import LeftOut
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites import engines, merged_speed, models
from updp_rt.runtime.engines import ENGINES, RUNTIMES


def test_those_asked_for_or_those_installed_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_openvino(model: nn.Module, example: torch.Tensor) -> tuple[bool, str]:
        return True, ""

    for name in RUNTIMES:
        monkeypatch.setattr(ENGINES[name], "supports", lambda *_: (False, "not installed"))
    monkeypatch.setattr(ENGINES["openvino"], "supports", only_openvino)
    assert runtimes(Settings(device="cpu")) == ("openvino",)
    assert runtimes(Settings(device="cpu", engines=("none",))) == ()
    assert runtimes(Settings(device="cpu", engines=("onnxruntime",))) == ("onnxruntime",)
    with pytest.raises(ValueError, match="unknown engine 'tensorrt'"):
        runtimes(Settings(device="cpu", engines=("tensorrt",)))
    with pytest.raises(LeftOut, match="not installed"):
        run_in("onnxruntime", nn.Identity(), torch.zeros(1))
    with pytest.raises(LeftOut, match="not installed"):
        run_exported(nn.Identity(), torch.zeros(1, 3, 8, 8))


def rows_of(batch: int, times: dict[str, float], **about: Any) -> list[Row]:
    at = {"model": "m", "dtype": "float32", "batch": batch, "case": f"m b{batch}"}
    return [{**at, "candidate": name, "median_ms": ms, **about} for name, ms in times.items()]


def test_auto_is_told_over_the_best_other_of_each_case() -> None:
    first = {"P0 eager": 9.0, "P0 inductor": 4.0, "P0 openvino": 3.0, "P0 modules": 2.0, "P0 auto": 3.0, "P6 auto": 2.0}
    second = {"P0 eager": 8.0, "P0 inductor": 6.0, "P0 openvino": 7.0, "P0 auto": 4.0, "P6 auto": 3.0}
    (grid,) = engines.tables([*rows_of(1, first, engine="openvino"), *rows_of(8, second, engine="modules")])
    picked = "openvino / modules"
    assert grid.rows == [
        ["m", "float32", "1 / 8", "openvino / inductor", picked, "1.00 / 1.50", "P6", picked, "1.50 / 2.00"]
    ]
    assert "Unpruned: 1.22 (1.00) in geometric mean (at least); wanted 1.00 (0.97)." in grid.notes
    assert "m, merged: 1.73 (1.50) in geometric mean (at least); wanted 1.26." in grid.notes
    assert not any("95%" in note for note in grid.notes)
    (alone,) = engines.tables(rows_of(1, {"P0 eager": 2.0, "P0 auto": 1.0}, q1_ms=0.9, q3_ms=1.1, rounds=100))
    noise = 1.57 * 0.2 / 10 * math.hypot(1 / 2.0, 1 / 1.0)
    assert f"95% intervals of these ratios: ±{100 * noise:.1f}% in the median." in alone.notes
    assert alone.rows[0][5:] == ["2.00", "P0", "", ""]


def test_what_merging_buys_in_each_runtime_is_told() -> None:
    times = {"P0 accelerated": 4.0, "P0 openvino": 3.0, "P3 accelerated": 2.0, "P3 openvino": 1.0}
    grid = models.in_runtimes(rows_of(1, times))
    assert grid.rows == [["m", "float32", "1", "P3", "openvino", "3.00", "0.75", "0.50"]]


def test_gains_of_exported_models_are_told_beside_torchs() -> None:
    first = {"baseline eager": 6.0, "merged eager": 4.0, "baseline compiled": 4.5, "merged compiled": 3.0}
    first |= {"baseline exported": 3.6, "merged exported": 2.0}
    second = {"baseline eager": 8.0, "merged eager": 4.0, "baseline compiled": 6.0, "merged compiled": 5.0}
    second |= {"baseline exported": 6.0, "merged exported": 4.0}
    about = {"pruned": 3, "blocks": 6, "forms": "full/conv"}
    both = [*rows_of(1, first, **about), *rows_of(8, second, **about)]
    (grid,) = merged_speed.tables(both)
    where = ["in eager torch", "in compiled torch", "in ONNX Runtime"]
    assert grid.columns[5:] == [*where, "ONNX Runtime's over eager torch's", "ONNX Runtime's over compiled torch's"]
    told = ["1.50 / 2.00", "1.50 / 1.20", "1.80 / 1.50", "1.20 / 0.75", "1.20 / 1.25"]
    assert grid.rows == [["m", "float32", "3 of 6", "full/conv", "1 / 8", *told]]
    assert grid.notes == [
        "ONNX Runtime's gain over eager torch's: 0.95 (0.75) in geometric mean (at least); wanted 0.9 at least.",
        "ONNX Runtime's gain over compiled torch's: 1.22 (1.20) in geometric mean (at least); wanted 0.9 at least.",
    ]
    at = {key: value for key, value in both[0].items() if key != "median_ms"} | {"left_out": "not installed"}
    plain = [row for row in both if "exported" not in row["candidate"]]
    alone = [at | {"candidate": name} for name in ("baseline exported", "merged exported")]
    (grid,) = merged_speed.tables([*plain, *alone])
    assert grid.columns[5:] == ["in eager torch", "in compiled torch"]
    assert grid.rows == [["m", "float32", "3 of 6", "full/conv", "1 / 8", "1.50 / 2.00", "1.50 / 1.20"]]
    assert grid.notes == ["left out: 2 candidates: not installed"]
