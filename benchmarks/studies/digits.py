"""The digits as the studies train and judge on them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn
from torch.utils.data import ConcatDataset

from updp_rt.data import load_splits, make_loader
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.trainer import Losses, Recipe, evaluate, fit, make_accelerator

BATCH = 32


class Digits:
    """Training images under one seed, and 719 that training never sees."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.splits = load_splits("digits", (3, 32, 32))
        self.unseen = make_loader(ConcatDataset([self.splits.val, self.splits.test]), 256, training=False)

    def loader(self, batch: int = BATCH) -> Any:
        """Training images, shuffled."""
        return make_loader(self.splits.train, batch, training=True, seed=self.seed)

    def train(self, model: nn.Module, losses: Losses, recipe: Recipe, stage: str) -> float:
        """Train `model`; its accuracy on the unseen images."""
        with TemporaryDirectory() as folder:
            fit(
                model,
                self.loader(),
                losses,
                recipe,
                stage=stage,
                accelerator=make_accelerator(),
                progress=Progress(show=False),
                checkpoint=Path(folder) / "ckpt",
            )
        return self.accuracy(model)

    def accuracy(self, model: nn.Module) -> float:
        """On the unseen images."""
        return evaluate(model, self.unseen)
