"""NaN and infinity: refused at the start, and where they come up training stops and what was there before stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import updp_rt
from tests.pruning.conftest import run_pruning, small_model, small_split
from tests.pruning.test_pipeline import QUICK, table
from updp_rt.data import make_loader
from updp_rt.pruning import DivergedError, stages
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.trainer import Recipe, find_non_finite, fit, label_losses, make_accelerator


@pytest.fixture(autouse=True)
def _quiet_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)


@pytest.mark.parametrize(
    ("name", "value"), [("head.weight", "nan"), ("blocks.2.mlp.fc1.bias", "inf"), ("pos_embed", "-inf")]
)
def test_damaged_weights_are_refused_at_once(tmp_path: Path, name: str, value: str) -> None:
    model = small_model()
    model.state_dict()[name].view(-1)[3] = float(value)
    with pytest.raises(ValueError, match=rf"the model to start from is damaged: {name} holds NaN or infinity"):
        updp_rt.prune(model, small_split("train", 32), small_split("val", 16), num_pruned=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_statistics_of_norms_are_looked_at_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert find_non_finite(model) is None
    model[1].running_var[2] = float("inf")
    assert find_non_finite(model) == "1.running_var"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"supernet_epochs": 1, "supernet_lr": 1e30},
            r"supernet: .* at step \d+ \(epoch 1 of 1\): .*supernet_lr is",
        ),
        ({"lr": 1e30}, r"subnet: .* at step \d+ \(epoch 1 of 1\): try a smaller learning rate \(lr is 1e\+30\)"),
    ],
)
def test_a_rate_that_is_far_too_high_stops_the_run(tmp_path: Path, settings: dict[str, float], message: str) -> None:
    with pytest.raises(DivergedError, match=message):
        run_pruning(tmp_path, **{**QUICK, **settings})
    assert not (tmp_path / "subnet.safetensors").exists()
    assert not (tmp_path / "merged").exists()
    if "lr" in settings:  # what was found before is kept, and gone on from
        supernet = load_file(tmp_path / "supernet.safetensors")
        run_pruning(tmp_path, **QUICK)
        again = load_file(tmp_path / "supernet.safetensors")
        assert all(torch.equal(value, again[key]) for key, value in supernet.items())


def spoilt(step: int, spoil: Callable[[nn.Module, Tensor], Tensor]) -> Callable[..., Iterator[Tensor]]:
    plain = label_losses()

    def losses(model: nn.Module, images: Tensor, labels: Tensor, now: int) -> Iterator[Tensor]:
        for loss in plain(model, images, labels, now):
            yield spoil(model, loss) if now == step else loss

    return losses


def _infinite_weight(model: nn.Module, loss: Tensor) -> Tensor:
    """One that the loss does not see."""
    model.unused.data.fill_(float("inf"))
    return loss


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda model, loss: loss * float("nan"), "the loss is nan"),
        (lambda model, loss: loss * float("inf"), "the loss is inf"),
        (_infinite_weight, "unused is not finite"),
    ],
)
def test_the_first_step_is_named_and_the_epoch_before_is_kept(
    tmp_path: Path, spoil: Callable[[nn.Module, Tensor], Tensor], what: str
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    images = torch.randn(12, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    loader = make_loader(TensorDataset(images, torch.arange(12) % 4), 4, training=True)
    checkpoint = tmp_path / "test.ckpt"
    how = {"accelerator": make_accelerator(), "progress": Progress(show=False), "checkpoint": checkpoint}
    with pytest.raises(DivergedError, match=rf"test: {what} at step 7 \(epoch 3 of 4\): .*; epoch 2 is kept in .*ckpt"):
        fit(model, loader, spoilt(7, spoil), Recipe(4, 1e-3), stage="test", **how)
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_images_that_are_not_finite_are_blamed_rather_than_the_rate(tmp_path: Path) -> None:
    images = torch.zeros(8, 3, 2, 2)
    images[5] = float("nan")
    loader = make_loader(TensorDataset(images, torch.zeros(8, dtype=torch.long)), 8, training=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    how = {"accelerator": make_accelerator(), "progress": Progress(show=False), "checkpoint": tmp_path / "test.ckpt"}
    with pytest.raises(DivergedError, match=r"the images hold NaN or infinity at step 0 .*: mend the data; no epoch"):
        fit(model, loader, label_losses(), Recipe(1, 1e-3), stage="test", **how)


@pytest.mark.parametrize("settings", [{"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": float("nan")}])
def test_settings_are_finite(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite number"):
        run_pruning(tmp_path / "out", **settings)
