"""Small data and a small model, so that whole runs take seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Subset

import updp_rt
from updp_rt.data import Digits

SETTINGS: dict[str, Any] = {
    "supernet_epochs": 2,
    "trials": 6,
    "epochs": 3,
    "batch_size": 16,
    "recalibration_batches": 2,
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of a search is synced line by line."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model("test_vit", img_size=32, num_classes=10)
    return model


def small_split(split: str, images: int) -> Subset[Any]:
    return Subset(Digits(split, (32, 32), augment=split == "train"), range(images))


def run_pruning(folder: Path, **settings: Any) -> updp_rt.PruneResult:
    return updp_rt.prune(
        small_model(),
        small_split("train", 64),
        small_split("val", 40),
        test=small_split("test", 50),
        out=folder,
        show_progress=False,
        **{"num_pruned": 3, **SETTINGS, **settings},
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> updp_rt.PruneResult:
    """One whole run that several tests look at."""
    return run_pruning(tmp_path_factory.mktemp("run") / "out")
