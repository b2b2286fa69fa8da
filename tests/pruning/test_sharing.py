"""Workers that share a search: each candidate is evaluated once, whoever dies, and nothing half-written stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.artifacts.test_atomic import largest_file
from tests.processes import finish, start
from tests.pruning.conftest import small_model, small_split
from tests.pruning.test_pipeline import QUICK, table
from tests.pruning.test_search import NAMES, accuracy, dying, latency
from updp_rt.artifacts.atomic import WriteError
from updp_rt.pruning import PruneConfig, Run, RunError, SearchResult, stages
from updp_rt.pruning.claim import locked
from updp_rt.pruning.pipeline import run_stages
from updp_rt.pruning.run import read_result
from updp_rt.pruning.search import search_blocks
from updp_rt.pruning.study import Database, open_journal

TRIALS = 16
Storage = Path | Database


def search(storage: Storage, evaluate: Callable[[tuple[str, ...]], float] = accuracy, **options: Any):
    options = {"trials": TRIALS, "num_pruned": 3} | options
    candidates, chosen, _ = search_blocks(NAMES, evaluate, latency, storage=storage, **options)
    return candidates, chosen


class Noted:
    """Accuracies, each noted in a file that several processes write."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def __call__(self, blocks: tuple[str, ...]) -> float:
        self.count += 1
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} {' '.join(blocks)}\n")
        return accuracy(blocks)

    def read(self) -> list[tuple[str, tuple[str, ...]]]:
        """The process and the blocks of each."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(line.split()[0], tuple(line.split()[1:])) for line in lines]


def wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def together(storage: Storage, notes: Path) -> None:
    """One of two workers: its first evaluation ends when the other has begun one."""
    noted = Noted(notes)

    def evaluate(blocks: tuple[str, ...]) -> float:
        found = noted(blocks)
        wait(lambda: len({process for process, _ in noted.read()}) == 2)
        return found

    search(storage, evaluate)


def stuck(storage: Storage, notes: Path) -> None:
    """A worker that hangs in its third evaluation."""
    noted = Noted(notes)

    def evaluate(blocks: tuple[str, ...]) -> float:
        found = noted(blocks)
        if noted.count == 3:
            time.sleep(600)
        return found

    search(storage, evaluate)


def steady(storage: Storage, notes: Path) -> None:
    search(storage, Noted(notes))


def assert_each_once(storage: Storage, notes: Path) -> None:
    """By what was noted, and by the study, which has no more to evaluate."""
    evaluated = [blocks for _, blocks in Noted(notes).read()]
    assert len(evaluated) == len(set(evaluated)) == TRIALS
    candidates, _ = search(storage, lambda blocks: pytest.fail("there was nothing left to evaluate"))
    assert {candidate.blocks for candidate in candidates} == set(evaluated)
    assert all(candidate.accuracy == accuracy(candidate.blocks) for candidate in candidates)


def test_two_workers_evaluate_each_candidate_once(tmp_path: Path) -> None:
    path, notes = tmp_path / "study.journal", tmp_path / "notes"
    for worker in [start(together, path, notes) for _ in range(2)]:
        finish(worker)
    assert_each_once(path, notes)
    assert not list(tmp_path.glob("*.worker"))


@pytest.mark.slow
def test_a_killed_worker_s_trial_is_taken_over(tmp_path: Path) -> None:
    path, notes = tmp_path / "study.journal", tmp_path / "notes"
    worker = start(stuck, path, notes)
    wait(lambda: len(Noted(notes).read()) == 3)
    other = start(steady, path, notes)
    wait(lambda: len(Noted(notes).read()) == TRIALS)  # and waits for the one that hangs
    assert other.is_alive()
    worker.kill()
    worker.join()
    finish(other, 60)
    candidates, _ = search(path, lambda blocks: pytest.fail("there was nothing left to evaluate"))
    assert len({candidate.blocks for candidate in candidates}) == len(candidates) == TRIALS
    assert len(Noted(notes).read()) == TRIALS + 1
    assert not list(tmp_path.glob("*.worker"))


@pytest.mark.slow
def test_all_workers_killed_and_one_to_go_on(tmp_path: Path) -> None:
    path, notes = tmp_path / "study.journal", tmp_path / "notes"
    workers = [start(stuck, path, notes) for _ in range(2)]
    wait(lambda: len(Noted(notes).read()) == 6)
    for worker in workers:
        worker.kill()
        worker.join()
    finish(start(steady, path, notes), 60)
    assert len(Noted(notes).read()) == TRIALS + 2
    candidates, _ = search(path, lambda blocks: pytest.fail("there was nothing left to evaluate"))
    assert len({candidate.blocks for candidate in candidates}) == TRIALS


def test_a_worker_s_trial_is_its_own_until_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"

    def states() -> list[TrialState]:
        return [trial.state for trial in other.study.get_trials()]

    with open_journal(path, ["maximize"]) as other:
        with open_journal(path, ["maximize"]) as worker:
            with worker.alone():
                worker.sign(worker.study.ask())
                worker.study.ask()  # dies before it signs
            with other.alone():
                other.give_up_lost()
            assert states() == [TrialState.RUNNING, TrialState.FAIL]
        with other.alone():
            other.give_up_lost()
        assert states() == [TrialState.FAIL, TrialState.FAIL]


def test_what_dead_workers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "study.4194305-00000000.worker").touch()
    search(tmp_path / "study.journal", trials=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.journal", "study.lock"]


def interrupted(storage: Storage, evaluate: Callable[[tuple[str, ...]], float], stop: int = 5) -> None:
    """A search that dies in its fifth evaluation."""
    with pytest.raises(KeyboardInterrupt):
        search(storage, dying(evaluate, stop))


@pytest.mark.parametrize("half", [b'{"op_code":4,"worker_id":"', b"x" * 9000])
def test_half_a_line_of_a_worker_that_died_spoils_nothing(half: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    interrupted(path, accuracy)
    with path.open("ab") as file:
        file.write(half)
    assert search(path) == search(tmp_path / "whole.journal")


@pytest.mark.parametrize("room", [0, 7, 900])
def test_a_search_on_a_full_disk_keeps_what_it_found(room: int, tmp_path: Path) -> None:
    """The journal may grow by so many bytes more: the write that fails leaves half a line, or none."""
    path, full = tmp_path / "study.journal", ExitStack()
    calls = 0

    def filling(blocks: tuple[str, ...]) -> float:
        nonlocal calls
        calls += 1
        if calls == 5:
            full.enter_context(largest_file(path.stat().st_size + room))
        return accuracy(blocks)

    with full, pytest.raises(WriteError, match=r"study.journal cannot be written: File too large\. What was evaluated"):
        search(path, filling)
    assert path.read_bytes().endswith(b"\n")
    before, calls = calls, 100
    assert search(path, filling) == search(tmp_path / "whole.journal")
    assert calls - 100 in (TRIALS - before, TRIALS - before + 1), "no more than the one at hand is evaluated again"


def run_in(folder: Path, storage: str | None = None, **settings: Any) -> Run:
    config = PruneConfig.model_validate({"num_pruned": 2, "batch_size": 16, **QUICK, "trials": 8, **settings})
    data = small_split("train", 32), small_split("val", 40)
    return Run(small_model(), *data, folder, config, storage=storage, show_progress=False)


def test_a_second_process_joins_the_search_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it gives the same settings, and the supernet is there."""
    monkeypatch.setattr(stages, "measure_latency", table)
    run = run_in(tmp_path)
    with (
        run.claimed(),
        pytest.raises(RunError, match="still at the stage before the search"),
    ):
        run_stages(run_in(tmp_path), ["search"])
    run_stages(run, ["supernet"])
    with locked(tmp_path):
        with pytest.raises(RunError, match=r"another process is at another search in it \(trials: 5 now, 8 there\)"):
            run_stages(run_in(tmp_path, trials=5), ["search"])
        with pytest.raises(RunError, match="another process is writing it"):
            run_stages(run_in(tmp_path))
        run_stages(run_in(tmp_path, epochs=7), ["search"])
    assert len(read_result(tmp_path / "search.json", SearchResult).candidates) == 8


def _search_stage(folder: Path) -> None:
    run_stages(run_in(folder), ["search"])


@pytest.mark.slow
def test_the_stage_search_runs_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)
    run_stages(run_in(tmp_path), ["supernet"])
    for worker in [start(_search_stage, tmp_path) for _ in range(3)]:
        finish(worker)
    log = (tmp_path / "log.txt").read_text()
    assert log.count(" blocks, accuracy ") == 8
    assert log.count("working at its search") >= 1
    result = read_result(tmp_path / "search.json", SearchResult)
    assert len({candidate.blocks for candidate in result.candidates}) == len(result.candidates) == 8
    run_stages(run_in(tmp_path))
    assert (tmp_path / "summary.json").exists()
