"""Training a baseline: what a killed one becomes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import updp_rt
from tests.processes import finish, start
from tests.pruning.conftest import small_model, small_split
from updp_rt.pruning.baseline import train_baseline
from updp_rt.pruning.config import TrainConfig


def _train(folder: Path) -> None:
    torch.set_num_threads(1)
    config = TrainConfig.model_validate({"epochs": 4, "batch_size": 16})
    train_baseline(small_model(), small_split("train", 64), small_split("val", 32), folder, config, show_progress=False)


@pytest.mark.slow
def test_a_training_killed_between_epochs_ends_the_same(tmp_path: Path) -> None:
    """kill -9 after an epoch, then go on: bit for bit what an undisturbed training gives."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    _train(undisturbed)
    process = start(_train, killed)
    deadline = time.monotonic() + 300
    while not (killed / "train.ckpt").exists():
        assert process.is_alive(), "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (killed / "manifest.json").exists()
    finish(start(_train, killed))
    found, wanted = (updp_rt.load(folder).state_dict() for folder in (killed, undisturbed))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert (killed / "history.csv").read_text() == (undisturbed / "history.csv").read_text()
    assert not list(killed.glob("*.ckpt"))
