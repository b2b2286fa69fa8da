"""Runs that are killed or asked to end at any stage: the same call goes on, and ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.processes import finish, start
from tests.pruning.conftest import run_pruning
from tests.pruning.test_pipeline import assert_identical, results
from tests.pruning.test_stopping import BATCHES, assert_same, train
from updp_rt.data.loading import OUTLIVES
from updp_rt.pruning.stopping import stoppable

pytestmark = pytest.mark.slow


def _prune(folder: Path) -> None:
    torch.set_num_threads(1)
    run_pruning(folder)


def _train(folder: Path, pause: float) -> None:
    torch.set_num_threads(1)

    def each_step(step: int) -> None:
        (folder / f"step-{step}").touch()
        time.sleep(pause)

    with stoppable(folder, lambda line: None):
        found = train(folder, workers=1, each_step=each_step)
        torch.save(found, folder / "found.pt")


def wait(condition: Callable[[], bool], alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def reached(folder: Path, sign: str) -> bool:
    log = folder / "log.txt"
    return log.exists() and sign in log.read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(_prune, folder))
    return results(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("sign", ["λ goes from 0 to 1", "search: ", "supernet: epoch 1", "subnet: epoch 1"])
def test_a_run_killed_at_any_stage_ends_the_same(
    sign: str, number: signal.Signals, undisturbed: dict, tmp_path: Path
) -> None:
    """Once the log shows `sign`, then go on: bit for bit what an undisturbed run gives."""
    killed = tmp_path / "killed"
    process = start(_prune, killed)
    wait(lambda: reached(killed, sign), process.is_alive)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert reached(killed, "stopped by SIGTERM; what is done is kept in") == (number == signal.SIGTERM)
    assert not (killed / "summary.json").exists()
    finish(start(_prune, killed))
    assert_identical(results(killed), undisturbed)
    assert not list(killed.glob(".*.tmp"))
    assert not list(killed.glob("*.ckpt"))
    assert not list(killed.glob("*.worker"))


def test_a_scheduler_may_signal_the_processes_that_load_images_too(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    finish(start(_train, tmp_path / "whole", 0.0))
    process = start(_train, tmp_path / "stopped", 0.3)
    wait((tmp_path / "stopped" / f"step-{BATCHES + 1}").exists, process.is_alive)
    assert process.pid is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert children.read_text()
    for each in (*map(int, children.read_text().split()), process.pid):
        os.kill(each, signal.SIGTERM)
    process.join(OUTLIVES / 2)  # nor is it held up by those
    assert process.exitcode == 143
    place = torch.load(tmp_path / "stopped" / "test.ckpt")["place"]
    assert 0 < place["batches"] < BATCHES
    finish(start(_train, tmp_path / "stopped", 0.0))
    whole, found = (torch.load(tmp_path / name / "found.pt") for name in ("whole", "stopped"))
    assert_same(found, whole)


def test_a_command_that_is_asked_to_end_says_so_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    command = [sys.executable, "-m", "updp_rt.cli", "train", "test_vit", "--img-size", "32", "--epochs", "2"]
    command += ["--batch-size", "32", "--out", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait(lambda: reached(folder, "train: epoch 1"), lambda: process.poll() is None)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == 143
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"stopped by SIGTERM; what is done is kept in {folder}: the same command")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
