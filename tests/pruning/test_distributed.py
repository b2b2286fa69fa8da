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


@pytest.mark.slow
def test_prune_in_two_processes(tmp_path: Path) -> None:
    save_file(small_model().state_dict(), tmp_path / "start.safetensors")
    command = ["prune", "test_vit", "--checkpoint", str(tmp_path / "start.safetensors")]
    command += ["--img-size", "32", "--num-pruned", "2", "--epochs", "2", "--trials", "4", "--batch-size", "64"]
    command += ["--set", "supernet_epochs=1", "--plain", "--out", str(tmp_path / "run"), "--json"]
    port = free_port()
    for process in [start(_rank, rank, port, command, str(tmp_path / f"{rank}.txt")) for rank in range(2)]:
        finish(process)
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
