"""Two processes as torchrun starts them: the same stages, the data shared out, one folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

import updp_rt
from tests.processes import finish, start
from tests.pruning.conftest import small_model
from tests.pruning.launching import be_rank, free_port
from updp_rt.cli import app


def _rank(rank: int, port: int, arguments: list[str], output: str) -> None:
    be_rank(rank, port)
    with open(output, "w") as stdout:
        os.dup2(stdout.fileno(), 1)
        app(arguments, standalone_mode=False)


def command(folder: Path, out: str, *further: str) -> list[str]:
    save_file(small_model().state_dict(), folder / "start.safetensors")
    start = ("--checkpoint", str(folder / "start.safetensors"), "--img-size", "32", "--num-pruned", "2", "--plain")
    return ["prune", "test_vit", *start, "--batch-size", "64", "--out", str(folder / out), "--json", *further]


def in_two(folder: Path, arguments: list[str]) -> None:
    port = free_port()
    for process in [start(_rank, rank, port, arguments, str(folder / f"{rank}.txt")) for rank in range(2)]:
        finish(process)


@pytest.mark.slow
def test_prune_in_two_processes(tmp_path: Path) -> None:
    further = ("--epochs", "2", "--trials", "4", "--set", "supernet_epochs=1")
    in_two(tmp_path, command(tmp_path, "run", *further))
    assert (tmp_path / "1.txt").read_text() == "", "one of them speaks"
    printed = (tmp_path / "0.txt").read_text()
    summary = json.loads(printed[printed.index("{") :])
    assert summary["predictions_that_differ"] == 0
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    steps = [int(line.split(",")[1]) for line in history[1:]]
    assert steps == [8, 16]  # 16 batches an epoch, shared by two processes
    search = json.loads((tmp_path / "run" / "search.json").read_text())
    assert len(search["candidates"]) == 4
    updp_rt.load(tmp_path / "run" / "merged")


@pytest.mark.slow
def test_what_all_processes_judge_is_judged_as_by_one(tmp_path: Path) -> None:
    """Each block's absence, and what is left: statistics and figures are of all batches and images."""
    further = ("--method", "drop", "--stage", "search", "--set", "recalibration_batches=3")
    in_two(tmp_path, command(tmp_path, "two", *further))
    app(command(tmp_path, "one", *further), standalone_mode=False)
    two, one = (json.loads((tmp_path / name / "search.json").read_text())["chosen"] for name in ("two", "one"))
    assert two["blocks"] == one["blocks"]
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1.5 / 270)  # a picture on the edge
