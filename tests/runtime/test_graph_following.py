"""Whatever changes a model that runs as a graph is followed: by a new graph, or by its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.runtime import test_engines
from tests.runtime.changes import (
    CHANGES,
    channels_last,
    compiled_step,
    dropout_awake,
    load,
    no_bias,
    no_norm,
    old_weight_norm,
    pruned,
    running_statistics,
    scaled,
)
from tests.runtime.small import assert_same
from tests.runtime.tape import TapeRecorder, graph_twins, on_tape, replays
from tests.runtime.test_engines import Halved, ReadsMore


@pytest.fixture(autouse=True)
def tape() -> Iterator[TapeRecorder]:
    with on_tape() as recorder:
        yield recorder


# A step that is compiled changes weights as others do, and takes as long as all others.
@pytest.mark.parametrize("change", [c for c in CHANGES if c is not compiled_step], ids=lambda change: change.__name__)
def test_a_change_is_followed(change: Callable[[Any, Tensor], None]) -> None:
    source, fast, images = graph_twins()
    with torch.no_grad():
        before = fast(images)
    for each in (source, fast):
        change(each, images)
    for _ in range(3):
        assert_same(fast, source, images)
    with torch.no_grad():
        assert change is channels_last or not torch.equal(fast(images), before) or change in (dropout_awake, no_norm)
    for each in (source, fast):
        load(each, images) if change not in (pruned, old_weight_norm, no_bias) else running_statistics(each, images)
    for _ in range(3):
        assert_same(fast, source, images)


@torch.no_grad()
def test_weights_that_hold_still_are_recorded_again(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    other = torch.randn(1, 3, 8, 8)
    updp_rt.prewarm(fast, other)
    for step in range(3):
        for each in (source, fast):
            each[1].conv1.weight.mul_(1.1 + step)
        assert not replays(tape, fast, source, images), "the modules pack them"
        assert replays(tape, fast, source, images)
        assert replays(tape, fast, source, images)
        assert replays(tape, fast, source, other)
    assert tape.recorded == 2 + 2 * 3
    assert tape.waited == 3, "nothing runs any more when its memory is freed"
    for _ in range(3):
        for each in (source, fast):
            each.load_state_dict(scaled(each, 0.9))
        assert not replays(tape, fast, source, images), "weights that change every time are not recorded"
    assert tape.recorded == 8
    assert tape.waited == 4


@torch.no_grad()
def test_plain_tensors_of_modules_are_followed(tape: TapeRecorder) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.shift = nn.Linear(8, 8), torch.ones(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.shift

    source = Shifted().eval()
    x = torch.randn(3, 8)
    fast = updp_rt.accelerate(source, x, engine="graph")
    for change in (lambda m: setattr(m, "shift", torch.full((8,), 3.0)), lambda m: m.shift.mul_(2)):
        for each in (source, fast):
            change(each)
        assert not replays(tape, fast, source, x)
        assert replays(tape, fast, source, x)


@torch.no_grad()
def test_values_that_a_forward_has_read_are_followed(tape: TapeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    source, fast, images = graph_twins(ReadsMore())
    set_factor = partial(monkeypatch.setattr, test_engines, "_FACTOR")
    for change, undo in (
        (lambda m: setattr(m, "_scale", 3.0), lambda m: setattr(m, "_scale", 1.0)),
        (lambda m: setattr(m, "p", 3.0), lambda m: setattr(m, "p", 1.0)),
        (lambda m: m.config.update(scale=3.0), lambda m: m.config.update(scale=1.0)),
        (lambda m: setattr(m.options, "scale", 3.0), lambda m: setattr(m.options, "scale", 1.0)),
        (lambda m: m.steps.__setitem__(0, 3.0), lambda m: m.steps.__setitem__(0, 1.0)),
        (lambda m: m.pool.__dict__.update(kernel_size=5, padding=2), lambda m: m.pool.__init__(3, 1, 1)),
        (lambda m: setattr(m.pool, "__class__", Halved), lambda m: setattr(m.pool, "__class__", nn.AvgPool2d)),
        (lambda m: set_factor(3.0), lambda m: set_factor(1.0)),
    ):
        wanted = source(images)
        for each in (source, fast):
            change(each)
        assert not torch.allclose(source(images), wanted)
        assert not replays(tape, fast, source, images)
        for each in (source, fast):
            undo(each)
            each.eval()
        assert replays(tape, fast, source, images), "as it was"
    fast.config.update(scale=3.0), source.config.update(scale=3.0)
    updp_rt.prewarm(fast, images)
    assert replays(tape, fast, source, images), "prewarm takes it as it is"


@torch.no_grad()
def test_exchanged_parts_are_recorded_when_asked(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    for each in (source, fast):
        each[1].act1 = nn.SiLU().eval()
    assert not replays(tape, fast, source, images)
    updp_rt.prewarm(fast, images)
    assert replays(tape, fast, source, images)
    updp_rt.refresh(fast)
    assert not replays(tape, fast, source, images)
    updp_rt.prewarm(fast, images)
    assert replays(tape, fast, source, images)
