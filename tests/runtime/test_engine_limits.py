"""What an engine may take: all of its programs together, those built later and those of copies among them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import updp_rt
from tests.runtime.small import assert_same, twins
from tests.runtime.test_constant_engines import Copied, assert_served_by
from updp_rt.runtime import fastest, memory
from updp_rt.runtime.engines import ENGINES, engine_of
from updp_rt.runtime.engines.base import state_of
from updp_rt.runtime.fastest import EngineLimits, choice_of

EACH = 3_000_000


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Copied:
    """An engine with programs for one shape and for any number of images, each of 3 MB; with it auto has no other."""
    engine = Copied("exact")
    monkeypatch.setattr(engine, "exact", True)
    monkeypatch.setitem(ENGINES, "exact", engine)
    monkeypatch.setattr(fastest, "ENGINES", {"modules": ENGINES["modules"], "exact": engine})
    monkeypatch.setattr(
        fastest, "time_side_by_side", lambda calls, **_: {name: 1.0 + (name == "modules") for name in calls}
    )
    monkeypatch.setattr(memory, "resident_bytes", lambda: EACH * engine.built)
    return engine


def others() -> Tensor:
    return torch.randn(3, 3, 8, 8)


def test_a_second_program_that_would_not_fit_is_not_kept(exact: Copied, caplog: pytest.LogCaptureFixture) -> None:
    source, fast, images = twins(engine="auto", engine_limits=EngineLimits(bytes=4e6))
    state = state_of(fast)
    assert state is not None
    for _ in range(20):
        assert_same(fast, source, others())
    assert exact.built == 2
    assert caplog.text.count("it takes 6 MB of memory, and 4 are allowed") == 1
    with pytest.raises(updp_rt.AccelerationError, match=r"'exact'.*it takes 6 MB of memory, and 4 are allowed"):
        updp_rt.prewarm(fast, others())
    assert state.bytes == EACH
    assert_served_by(exact, 0, fast, source, others())
    assert_served_by(exact, 1, fast, source, images)


@pytest.mark.parametrize("engine", ["modules", "compiled"])
def test_limits_of_an_engine_that_is_named_are_refused(engine: str) -> None:
    with pytest.raises(ValueError, match=f"leave them out with engine='{engine}'"):
        twins(engine=engine, engine_limits=EngineLimits(seconds=1.0))


def test_copies_keep_to_it(exact: Copied) -> None:
    source, fast, images = twins(engine="auto", engine_limits=EngineLimits(bytes=4e6))
    twin = copy.deepcopy(fast)
    for x in (images, others()):
        for _ in range(9):
            assert_same(twin, source, x)
    assert_served_by(exact, 1, twin, source, images)
    assert_served_by(exact, 0, twin, source, others())


def test_programs_that_are_built_again_count_once(exact: Copied) -> None:
    source, fast, images = twins(engine="auto", engine_limits=EngineLimits(bytes=2 * EACH))
    state = state_of(fast)
    assert state is not None
    for built in (2, 4):
        for x in (images, others()) * 10:
            assert_same(fast, source, x)
        assert exact.built == built
        assert state.bytes == 2 * EACH
        for x in (images, others()):
            assert_served_by(exact, 1, fast, source, x)
        for model in (source, fast):
            with torch.no_grad():
                model[0][0].weight.neg_()


def test_examples_that_do_not_fit_together_refuse_the_engine(exact: Copied) -> None:
    model = twins()[0]
    shapes = [torch.randn(count, 3, 8, 8) for count in (2, 3)]
    options = {"backends": ["onednn", "reference"], "engine": "auto", "engine_limits": EngineLimits(bytes=4e6)}
    fast = updp_rt.accelerate(model, shapes, **options)
    assert engine_of(fast) == "modules"
    assert choice_of(fast).refused["exact"] == "it takes 6 MB of memory, and 4 are allowed"
