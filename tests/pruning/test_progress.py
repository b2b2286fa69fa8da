"""What a run tells where there is no terminal: no long silence, and what is left of the stage and of the whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from updp_rt.data import make_loader
from updp_rt.pruning import progress as module
from updp_rt.pruning.progress import Progress, duration
from updp_rt.pruning.trainer import evaluate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_no_silence_is_longer_than_half_a_minute(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 steps of 7 s: a line every fifth, with what is left; the log file has the lines too."""
    progress = Progress(tmp_path / "log.txt")
    with progress.task("supernet", 100) as advance:
        for _ in range(100):
            clock.now += 7.0
            advance("loss 1.5")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 20
    assert lines[0] == "supernet: 5 of 100, loss 1.5; left: about 11 min"
    assert lines[-2].startswith("supernet: 95 of 100, loss 1.5; left: about 35 s")
    logged = (tmp_path / "log.txt").read_text().splitlines()
    assert re.sub(r"^\S+ \S+  ", "", logged[0]) == "supernet: 5 of 100, loss 1.5"


def test_short_work_says_nothing_and_lines_of_its_own_break_the_silence(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    with progress.task("latency", 10) as advance:
        for _ in range(10):
            clock.now += 0.05
            advance("")
    assert capsys.readouterr().err == ""
    with progress.task("subnet", 10) as advance:
        for epoch in range(10):
            clock.now += 29.0
            advance("")
            progress.log(f"epoch {epoch}")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "epoch 9", "nothing is left"


def test_what_is_left_of_the_run_counts_the_stages_to_come(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """100 s of work a stage by plan, at twice the speed: half of the first is 25 s, so 25 + 50 + 50 are left."""
    progress = Progress()
    progress.expect({"supernet": 100.0, "search": 100.0, "subnet": 100.0})
    with progress.task("supernet", 10) as advance:
        for _ in range(5):
            clock.now += 5.0
            advance("")
        progress.log("half")
        for _ in range(5):
            clock.now += 5.0
            advance("")
    with progress.task("search", 4, 2) as advance:
        clock.now += 12.5
        advance("")
        progress.log("three of four")
    half, three = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("half", "three"))]
    assert half == "half; left: about 25 s, of the run about 2 min"
    assert three == "three of four; left: about 12 s, of the run about 62 s"


def test_a_stage_that_is_gone_on_with_is_told_by_the_speed_of_what_is_done_now(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    with progress.task("subnet", 100, 90) as advance:
        clock.now += 31.0
        advance("")
    assert capsys.readouterr().err.strip() == "subnet: 91 of 100; left: about 5 min"


def test_long_evaluations_are_not_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock.now += 10.0
            return x.flatten(1)

    loader = make_loader(TensorDataset(torch.eye(12).view(12, 12, 1, 1), torch.arange(12)), 1, training=False)
    progress = Progress()
    with progress.task("search", 5) as advance:
        advance("best 0.5")
        assert evaluate(Slow(), loader, each_batch=progress.still_here) == 1.0
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


def test_silent_processes_are_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(show=False)
    with progress.task("subnet", 3) as advance:
        clock.now += 100.0
        advance("")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 s"),
        (89.0, "about 89 s"),
        (100.0, "about 2 min"),
        (5000.0, "about 83 min"),
        (9000.0, "about 2.5 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
