"""Work in processes of its own: what dies takes itself along, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import power
from benchmarks.isolation import DiedError, Worker
from benchmarks.protocol import Measured, Record, Wrong
from benchmarks.settings import Settings
from benchmarks.suites import gpu
from updp_rt.ops import LINEAR, Problem

CPU = Settings(device="cpu", models=("first", "second"), batches=(1,), dtypes=("float32",), compiler="none")


class UnsendableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(kind: str) -> None:
    if kind == "wrong":
        raise Wrong("it is off")
    if kind == "unsendable":
        raise UnsendableError(1, 2)
    os.abort()


@pytest.mark.slow
def test_what_dies_takes_only_itself_along() -> None:
    with Worker(CPU, apart=True, begin=int) as worker:
        first = worker.run("a", os.getpid)
        assert first != os.getpid()
        assert worker.run("a", os.getpid) == first
        with pytest.raises(Wrong, match="it is off"):
            worker.run("a", fail, "wrong")
        with pytest.raises(RuntimeError, match="UnsendableError: 1 and 2"):
            worker.run("a", fail, "unsendable")
        assert worker.run("a", os.getpid) == first
        with pytest.raises(DiedError, match="without an exception"):
            worker.run("a", fail, "abort")
        again = worker.run("a", os.getpid)
        assert again != first
        assert worker.run("b", os.getpid) != again
    with Worker(CPU, apart=False, begin=int) as worker:
        assert worker.run("a", os.getpid) == os.getpid()


def time_or_die(
    settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], wrong: gpu.Wrongs
) -> tuple[Measured, dict[str, gpu.Met]]:
    """In place of a model."""
    if name == "first":
        os.abort()
    problem = Problem.make(LINEAR, torch.float32, x=(2048, 512), weight=(8, 512), act="none")
    met = gpu.Met(problem, "reference", {"reference": 1.0}, {}, [f"{name} P0"])
    return Measured({"P0 eager": [1.0, 1.0, 1.0]}), {problem.key: met}


@pytest.mark.slow
def test_a_model_that_aborts_is_lost_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_time_model", time_or_die)
    monkeypatch.setattr(gpu, "ODD", (LINEAR,))
    monkeypatch.setattr(gpu, "DTYPES", (torch.float32,))
    monkeypatch.setattr(gpu, "Worker", lambda settings, apart, begin: Worker(settings, apart=True, begin=begin))
    record = Record(gpu.SUITE, Settings(**{**vars(CPU), "out": tmp_path, "rounds": 1}), lambda line: None)
    for case in gpu.cases(record.settings):
        record.rows_of(case)
    models = {(row["model"], row["candidate"]): row for row in record.rows if row["part"] == "models"}
    assert "its process ended without an exception" in models["first", "P0 eager"]["wrong"]
    assert models["second", "P0 eager"]["median_ms"] == 1e3
    assert any(row["part"] == "numerics" and row["error"] <= row["bound"] for row in record.rows)
    timed = {row["candidate"] for row in record.rows if row["part"] == "operators" and "median_ms" in row}
    assert {"eager", "vendor:epilogue"} <= timed


def test_the_power_that_a_card_may_draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = tmp_path / "0000:c3:00.0"
    (card / "hwmon/hwmon3").mkdir(parents=True)
    (card / "hwmon/hwmon3/power1_cap").write_text("178000000\n")
    (card / "hwmon/hwmon3/power1_cap_max").write_text("290000000\n")
    (card / "pp_dpm_sclk").write_text("0: 300Mhz *\n1: 1502Mhz\n")
    (card / "power_dpm_force_performance_level").write_text("auto\n")
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xC3, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: place)
    monkeypatch.setattr(power, "DEVICES", tmp_path)
    told = {"cap_watts": 178.0, "most_watts": 290.0, "clock_mhz": 1502.0, "level": "auto"}
    assert power.power(torch.device("cuda", 0)) == told
    monkeypatch.setattr(power, "DEVICES", tmp_path / "elsewhere")
    assert power.power(torch.device("cuda", 0)) is None
    assert power.power(torch.device("cpu")) is None
