"""Models train in the memory layout that is fastest, and nothing else of them changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.conftest import small_split
from updp_rt.blocks.randomize import randomize
from updp_rt.data import make_loader
from updp_rt.pruning.layout import channels_last
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.trainer import Recipe, fit, make_accelerator


def small_cnn() -> nn.Module:
    """Two convolutions that have a layout, one of them depthwise, and one of 1×1 between."""
    torch.manual_seed(0)
    convolutions = (
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=12),
    )
    return randomize(nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)))


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def test_inside_all_runs_in_channels_last_and_computes_the_same() -> None:
    model = small_cnn().double().train()
    plain, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    images, labels = torch.randn(5, 3, 9, 7, dtype=torch.float64), torch.randint(10, (5,))
    seen: list[bool] = []
    hooks = [m.register_forward_hook(lambda m, x, y: seen.append(is_channels_last(y))) for m in list(model)[:5]]
    with channels_last(model):
        F.cross_entropy(model(images), labels).backward()
    F.cross_entropy(plain(images), labels).backward()
    assert seen == [True] * len(hooks)
    assert all(weight.is_contiguous() for weight in model.parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        torch.testing.assert_close(weight.grad, plain.get_parameter(name).grad, rtol=1e-10, atol=1e-12)
    with pytest.raises(KeyError), channels_last(model):
        raise KeyError
    assert all(weight.is_contiguous() for weight in model.parameters())


def test_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        assert is_channels_last(model[0](images))
        yield F.cross_entropy(model(images), labels)

    def train(folder: str, stop_after: int) -> None:
        model = small_cnn()
        epochs: list[int] = []

        def after(bare: nn.Module) -> dict[str, Any]:
            epochs.append(len(epochs))
            if len(epochs) > stop_after:
                raise KeyboardInterrupt
            return {}

        (tmp_path / folder).mkdir(exist_ok=True)
        loader = make_loader(small_split("train", 48), 16, training=True, seed=0)
        about: dict[str, Any] = {"stage": "train", "accelerator": make_accelerator(), "progress": Progress(show=False)}
        fit(model, loader, losses, Recipe(3, 1e-2), checkpoint=tmp_path / folder / "ckpt", after_epoch=after, **about)
        assert all(weight.is_contiguous() for weight in model.parameters())
        found.append(model.state_dict())

    train("whole", stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop_after=1)
    train("stopped", stop_after=3)
    whole, resumed = found
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
