"""Whose a run's folder is: one process at a time, what may change in it, and what another run may take over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from torch.utils.data import DataLoader

import updp_rt
from tests.processes import CONTEXT, start
from tests.pruning.conftest import run_pruning, small_model, small_split
from tests.pruning.test_pipeline import QUICK, table
from updp_rt.pruning import RunError, method, stages
from updp_rt.pruning.claim import locked


@pytest.fixture(autouse=True)
def _quiet_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that is done."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "measure_latency", table)
        run_pruning(folder, **QUICK)
        yield folder


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this stage was to be taken over")

    for name in names:
        monkeypatch.setattr(method if hasattr(method, name) else stages, name, refuse)


def _hold(folder: str, pipe: Connection) -> None:
    with locked(Path(folder)):
        pipe.send("held")
        pipe.recv()


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_one_s_death_frees_the_folder(tmp_path: Path) -> None:
    ours, theirs = CONTEXT.Pipe()
    other = start(_hold, str(tmp_path / "run"), theirs)
    assert ours.recv() == "held"
    with pytest.raises(RunError, match="run: another process is writing it; wait for it, or choose another folder"):
        run_pruning(tmp_path / "run", **QUICK)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"]
    other.kill()
    other.join()
    with locked(tmp_path / "run"):
        pass


def test_the_folder_is_held_while_stages_run_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(*_: object, **__: object) -> None:
        seen.append(FileLock(tmp_path / "run.lock").acquire)
        with pytest.raises(RunError, match="another process is writing it"), locked(tmp_path):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "search_blocks", stop)
    with pytest.raises(KeyboardInterrupt):
        run_pruning(tmp_path, **QUICK)
    assert seen
    with locked(tmp_path):
        pass


@pytest.mark.slow
def test_direct_training_takes_over_supernet_and_search(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "measure_latency", "sandwich_losses", "search_blocks")
    result = run_pruning(tmp_path / "direct", **QUICK, direct=True, reuse=begun)
    for name in ("latency.json", "supernet.safetensors", "search.json"):
        assert (tmp_path / "direct" / name).read_bytes() == (begun / name).read_bytes()
    assert result.summary["config"]["direct"] is True
    run_pruning(tmp_path / "direct", **QUICK, direct=True)  # finished, so nothing is needed of the other


@pytest.mark.slow
def test_another_count_takes_over_the_supernet_alone(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "measure_latency", "sandwich_losses")
    result = run_pruning(tmp_path / "two", **QUICK, num_pruned=2, reuse=begun)
    assert len(result.pruned) == 2
    assert (tmp_path / "two" / "supernet.safetensors").read_bytes() == (begun / "supernet.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supernet_lr": 1e-3}, r"its supernet is not this run's \(supernet_lr: 0.001 now, 0.0005 there\)"),
        ({"seed": 3, "direct": True}, r"its supernet is not this run's \(seed: 3 now, 0 there"),
    ],
)
def test_another_supernet_is_not_taken_over(
    begun: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        run_pruning(tmp_path / "other", **{**QUICK, **settings}, reuse=begun)
    with pytest.raises(RunError, match="not the folder of a pruning run"):
        run_pruning(tmp_path / "none", **QUICK, reuse=tmp_path)


@pytest.mark.parametrize(("settings", "reusable"), [({"lr": 1e-3}, True), ({"trials": 4}, True), ({"seed": 1}, False)])
def test_what_was_begun_is_never_thrown_away(begun: Path, settings: dict[str, Any], reusable: bool) -> None:
    before = {path: path.stat().st_mtime_ns for path in begun.iterdir()}
    with pytest.raises(RunError, match="holds another run") as caught:
        run_pruning(begun, **{**QUICK, **settings})
    assert ("--reuse" in str(caught.value)) == reusable
    assert {path: path.stat().st_mtime_ns for path in begun.iterdir()} == before


@pytest.mark.slow
def test_settings_of_a_stage_that_was_not_begun_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = method.search_blocks
    forbid(monkeypatch, "search_blocks")
    with pytest.raises(AssertionError):
        run_pruning(tmp_path, **QUICK)
    monkeypatch.setattr(method, "search_blocks", stage)
    supernet = (tmp_path / "supernet.safetensors").stat().st_mtime_ns
    result = run_pruning(tmp_path, **{**QUICK, "trials": 2}, num_pruned=1, direct=True, workers=0)
    assert (tmp_path / "supernet.safetensors").stat().st_mtime_ns == supernet
    assert json.loads((tmp_path / "run.json").read_text())["config"]["num_pruned"] == len(result.pruned) == 1


@pytest.mark.slow
def test_a_latency_out_of_reach_fails_before_training_and_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All six blocks merged, the model takes 3.5 of 8 ms."""
    with monkeypatch.context() as patch:
        forbid(patch, "calibrate", "fit")
        with pytest.raises(ValueError, match=r"no subnet is within 3.2 ms \(0.4 of .*; allow 0.44 or more"):
            run_pruning(tmp_path, **QUICK, num_pruned=None, max_latency=0.4)
    result = run_pruning(tmp_path, **{**QUICK, "trials": 1}, num_pruned=None, max_latency=0.44)
    assert len(result.pruned) == 6
    assert result.search.chosen.latency_ms == 3.5


def test_a_batch_larger_than_the_data_is_refused_at_once(tmp_path: Path) -> None:
    data = small_split("train", 40), small_split("val", 16)
    with pytest.raises(ValueError, match="batch_size is 64, but there are 40 training images: give 40 or less"):
        updp_rt.prune(small_model(), *data, num_pruned=2, out=tmp_path / "out", show_progress=False)
    loader = DataLoader(data[0], 64, drop_last=True)
    with pytest.raises(ValueError, match="the training split gives no batch"):
        updp_rt.prune(small_model(), loader, data[1], num_pruned=2, out=tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()
