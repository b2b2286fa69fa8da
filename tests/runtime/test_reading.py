"""What the code of a model names is watched, wherever it is held; what it does not name is not."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from updp_rt.runtime.engines.outside import Outside
from updp_rt.runtime.engines.reading import values_read

SCALE = 1.0
TABLE = {"deep": {"scale": [1.0]}}
UNREAD = {"scale": 1.0}
MASK = torch.ones(1)
settings = ModuleType("settings")
settings.FACTOR = 1.0  # type: ignore[attr-defined]


def helper(x: Tensor) -> Tensor:
    return x * _nested(settings.FACTOR)


def _nested(value: float) -> float:
    return value * SCALE


def closure() -> Callable[[Tensor], Tensor]:
    kept = {"bias": 0.0}

    def shift(x: Tensor) -> Tensor:
        return x + kept["bias"]

    shift.kept = kept  # type: ignore[attr-defined]
    return shift


shift = closure()


class Part(nn.Module):
    """Reads in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.options = SimpleNamespace(scale=1.0, note="")
        self.trainer = SimpleNamespace(step=0)
        self.tried: list[int] = []

    @property
    def size(self) -> float:
        return float(getattr(self.options, "scale"))  # noqa: B009 - as people write it

    def forward(self, x: Tensor) -> Tensor:
        return shift(helper(x)) * self.size * TABLE["deep"]["scale"][0] * MASK + self.later(x)

    def later(self, x: Tensor) -> Tensor:
        return x if self.tried else x * 2


def watched(model: nn.Module) -> Outside:
    outside = Outside()
    outside.watch(values_read(model.modules()))
    assert not outside.changed()
    return outside


@pytest.fixture
def part() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), Part()).eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda patch, part: patch.setattr(f"{__name__}.SCALE", 2.0),
        lambda patch, part: patch.setitem(TABLE, "deep", {"scale": [2.0]}),
        lambda patch, part: patch.setitem(TABLE["deep"], "scale", [2.0]),
        lambda patch, part: patch.setattr(settings, "FACTOR", 2.0),
        lambda patch, part: patch.setattr(f"{__name__}.helper", lambda x: x),
        lambda patch, part: patch.setattr(f"{__name__}.MASK", torch.zeros(1)),
        lambda patch, part: patch.setitem(shift.kept, "bias", 1.0),  # type: ignore[attr-defined]
        lambda patch, part: patch.setattr(part.options, "scale", 2.0),
        lambda patch, part: part.tried.append(1),
    ],
)
def test_what_is_read_is_watched(change: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = watched(part)
    with monkeypatch.context() as patch:
        change(patch, part[1])
        assert outside.changed()
    part[1].tried.clear()
    assert not outside.changed()


def test_what_is_not_read_is_not(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = watched(part)
    part[1].trainer.step += 1
    part[1].options.note = "changed"
    monkeypatch.setitem(UNREAD, "scale", 2.0)
    monkeypatch.setattr(f"{__name__}.UNREAD", {})
    assert not outside.changed()


def test_models_of_torch_alone_read_nothing() -> None:
    assert values_read(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()).modules()) == []
