"""SIGTERM and a full disk while training: what is done is kept, and gone on from to the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.artifacts.test_atomic import largest_file
from tests.marks import slow
from tests.pruning.conftest import small_split
from updp_rt.artifacts.atomic import WriteError
from updp_rt.data import make_loader
from updp_rt.pruning import midway, trainer
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.stopping import Stopped, deferred, stoppable
from updp_rt.pruning.trainer import Recipe, fit, label_losses, make_accelerator

EPOCHS, BATCHES = 3, 5


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ignore(*_: Any) -> None:
    pass


def train(
    folder: Path,
    *,
    each_step: Callable[[int], None] = ignore,
    each_epoch: Callable[[], None] = ignore,
    accumulate: int = 1,
    workers: int = 0,
) -> dict[str, Any]:
    """All that a training leaves; its images, its dropout and what its losses record depend on what was before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 10))
    plain, trace = label_losses(), []

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        each_step(step)
        trace.append((step, float(torch.rand(()))))
        yield from plain(model, images, labels, step)

    def after_epoch(_: nn.Module) -> dict[str, Any]:
        each_epoch()
        found = {"lambdas": list(trace)}
        trace.clear()
        return found

    history = fit(
        model,
        make_loader(small_split("train", 16 * BATCHES), 16, training=True, seed=3, workers=workers),
        losses,
        Recipe(EPOCHS, 1e-3, seed=3, accumulate=accumulate),
        stage="test",
        accelerator=make_accelerator(),
        progress=Progress(folder / "log.txt", show=False),
        checkpoint=folder / "test.ckpt",
        after_epoch=after_epoch,
        trace=trace,
    )
    return {"history": history, **model.state_dict()}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["history"] == wanted["history"]
    assert all(torch.equal(found[key], value) for key, value in wanted.items() if key != "history")


def test_sigterm_ends_a_program_with_its_status_and_a_line(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(SystemExit) as caught, stoppable(tmp_path, said.append):
        stop()
    assert caught.value.code == 143
    assert said == [f"stopped by SIGTERM; what is done is kept in {tmp_path}: the same command goes on"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_must_be_finished_is_finished_first(tmp_path: Path) -> None:
    done: list[int] = []

    def work() -> None:
        with stoppable(tmp_path, ignore), deferred() as asked:
            assert not asked()
            stop()
            assert asked()
            stop()
            done.append(1)

    with pytest.raises(Stopped):
        work()
    assert done == [1]


def test_a_program_s_own_handling_is_left_alone(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with stoppable(tmp_path, ignore):
            stop()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


@pytest.fixture(scope="module", params=[1, 2], ids=["each batch", "every other batch"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """How many batches a step takes, and what an undisturbed training gives."""
    return request.param, train(tmp_path_factory.mktemp("whole"), accumulate=request.param)


@pytest.mark.parametrize("share", [slow(0.0), slow(0.1), 0.3, slow(0.5), slow(0.99)])
def test_a_training_that_was_stopped_goes_on_with_the_next_step(
    whole: tuple[int, dict[str, Any]], share: float, tmp_path: Path
) -> None:
    """In the first step, within an epoch, in an epoch's last step, and in the very last."""
    accumulate, wanted = whole
    steps = EPOCHS * -(-BATCHES // accumulate)
    last, done = int(share * steps), []

    def ask(step: int) -> None:
        if step == last:
            stop()

    with pytest.raises(Stopped), stoppable(tmp_path, ignore):
        train(tmp_path, each_step=ask, accumulate=accumulate)
    assert_same(train(tmp_path, each_step=done.append, accumulate=accumulate), wanted)
    assert list(dict.fromkeys(done)) == list(range(last + 1, steps))


def test_an_epoch_that_was_stopped_at_its_end_is_not_trained_again(
    whole: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    accumulate, wanted = whole
    done: list[int] = []
    with pytest.raises(Stopped), stoppable(tmp_path, ignore):
        train(tmp_path, each_epoch=stop, accumulate=accumulate)
    assert_same(train(tmp_path, each_step=done.append, accumulate=accumulate), wanted)
    assert done[0] == -(-BATCHES // accumulate)


def test_a_kill_costs_no_more_than_the_time_between_two_checkpoints(
    whole: tuple[int, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(midway, "KEEP_SECONDS", -1.0)
    accumulate, wanted = whole
    done: list[int] = []

    def die(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, each_step=die, accumulate=accumulate)
    assert_same(train(tmp_path, each_step=done.append, accumulate=accumulate), wanted)
    assert done[0] == 4


def test_several_processes_do_not_go_on_from_the_middle_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped), stoppable(tmp_path, ignore):
        train(tmp_path, each_step=lambda step: stop())
    monkeypatch.setattr(trainer, "processes", lambda: 2)
    with pytest.raises(ValueError, match=r"test.ckpt: one process stopped in the middle of an epoch; go on with one"):
        train(tmp_path)


def test_a_disk_that_fills_up_costs_the_epoch_at_hand_alone(whole: tuple[int, dict[str, Any]], tmp_path: Path) -> None:
    accumulate, wanted = whole
    kept: list[bytes] = []
    full = ExitStack()

    def fill() -> None:
        if (tmp_path / "test.ckpt").exists():
            kept.append((tmp_path / "test.ckpt").read_bytes())
            full.enter_context(largest_file(20_000))

    with full, pytest.raises(WriteError, match=r"test.ckpt cannot be written: .*\. Nothing was changed"):
        train(tmp_path, each_epoch=fill, accumulate=accumulate)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "test.ckpt"]
    assert [(tmp_path / "test.ckpt").read_bytes()] == kept
    assert_same(train(tmp_path, accumulate=accumulate), wanted)


def test_a_log_that_cannot_be_written_does_not_end_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path / "log.txt")
    with largest_file(0):
        progress.log("one")
        progress.log("two")
    said = capsys.readouterr().err
    assert said.splitlines()[0] == "one"
    assert "log.txt cannot be written: File too large; going on without" in said.replace("\n", "")
    assert said.endswith("two\n")
