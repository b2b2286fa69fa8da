"""A data set as the studies train and judge on it, and the baselines that they share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock
from torch import nn
from torch.utils.data import ConcatDataset

from updp_rt.artifacts import create_model
from updp_rt.artifacts.preprocessing import set_preprocessing
from updp_rt.blocks import set_lambda
from updp_rt.data import load_splits, make_loader
from updp_rt.pruning import TrainConfig, train_baseline
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.trainer import Losses, Recipe, evaluate, fit, make_accelerator, seed_everything

BATCH = 32
TRAIN, VAL = 12_000, 2_000  # images of a large data set that two CPU cores can train on in minutes


class Images:
    """Training images under one seed, some to choose by, and those that training never sees.

    Of the digits all 719 images to choose by and to test on count as unseen, since few are left; nothing may be chosen
    by them then.
    """

    def __init__(self, seed: int, data: str = "digits", size: int = 32) -> None:
        self.seed, self.data, self.size = seed, data, (3, size, size)
        self.splits = load_splits(data, self.size).first(TRAIN, VAL)
        unseen: Any = ConcatDataset([self.splits.val, self.splits.test]) if data == "digits" else self.splits.test
        self.unseen = make_loader(unseen, 256, training=False)

    def judge_by(self, unseen: Any) -> None:
        """Take other images that training never sees."""
        self.unseen = make_loader(unseen, 256, training=False)

    def learn_from(self, train: Any) -> None:
        """Take other images to train on from now on."""
        self.splits = replace(self.splits, train=train)

    def loader(self, batch: int = BATCH) -> Any:
        """Training images, shuffled."""
        return make_loader(self.splits.train, batch, training=True, seed=self.seed)

    def baseline(self, name: str, epochs: int, lr: float, work: Path) -> nn.Module:
        """The trained model of a name under the seed: trained once in the folder `work`, by whoever comes first."""
        words = f"{name}-{self.data}-{self.size[1]}-{epochs}-epochs-at-{lr:g}-seed-{self.seed}"
        folder = work / "baselines" / words.replace("/", "_")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # freed where its holder dies
            seed_everything(self.seed, "weights", 0)
            model = create_model(name, size=self.size[1:], num_classes=self.splits.num_classes)
            set_preprocessing(model, self.splits.preprocessing, self.size)
            config = TrainConfig.model_validate({"epochs": epochs, "lr": lr, "batch_size": BATCH, "seed": self.seed})
            data = self.splits.train, self.splits.val
            return train_baseline(model, *data, folder, config, test=self.unseen, show_progress=False)

    def train(
        self, model: nn.Module, losses: Losses, recipe: Recipe, stage: str, checkpoint: Path | None = None
    ) -> float:
        """Train `model`; its accuracy on the unseen images. With a checkpoint it goes on where it was stopped."""
        with TemporaryDirectory() as folder:
            fit(
                model,
                self.loader(),
                losses,
                recipe,
                stage=stage,
                accelerator=make_accelerator(),
                progress=Progress(show=False),
                checkpoint=checkpoint or Path(folder) / "ckpt",
            )
        set_lambda(model, 1.0)  # where the checkpoint is of the end, there was no step that set it
        return self.accuracy(model)

    def accuracy(self, model: nn.Module) -> float:
        """On the unseen images."""
        return evaluate(model, self.unseen)
