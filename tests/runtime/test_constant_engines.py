"""Engines whose programs hold the weights: a drop-in all the same, refused when wrong, the fastest kept."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.runtime import fastest
from updp_rt.runtime.engines import ENGINES, ConstantEngine, engine_of
from updp_rt.runtime.engines.base import state_of
from updp_rt.runtime.engines.constant import Program
from updp_rt.runtime.fastest import EngineLimits, choice_of


class Copied(ConstantEngine):
    """Runs a copy of the source, whose weights stay what they were."""

    def __init__(self, name: str, wrong: bool = False, most: int = 99) -> None:
        self.name, self.wrong, self.most = name, wrong, most  # type: ignore[misc]
        self.built, self.calls = 0, 0

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        return (False, "it takes no float64") if example.dtype == torch.float64 else (True, "")

    def build(self, model: nn.Module, example: Tensor, wide: bool) -> Program:
        self.built += 1
        own = copy.deepcopy(model)
        if self.wrong:
            weight = next(module.weight for module in own.modules() if isinstance(module, nn.Linear))
            weight.data[2, 5] += 1.0

        def run(x: Tensor) -> list[Tensor]:
            self.calls += 1
            return [torch.cat((own(x[: self.most]), own(x[self.most :]) * 0))]

        return run


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copied]:
    engine = Copied("copied")
    monkeypatch.setitem(ENGINES, "copied", engine)
    return engine


def any_size() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def assert_served_by(engine: Copied, times: int, fast: Any, source: Any, images: Tensor) -> None:
    before = engine.calls
    assert_same(fast, source, images)
    assert engine.calls - before == times


def test_the_model_stays_a_drop_in(copied: Copied) -> None:
    source, fast, images = twins(engine="copied")
    assert engine_of(fast) == "copied"
    assert isinstance(fast, nn.Sequential)
    assert list(fast.state_dict()) == list(source.state_dict())
    assert_served_by(copied, 1, fast, source, images)
    restored = updp_rt.restore(fast)
    assert type(restored) is nn.Sequential
    assert torch.equal(restored(images), source(images))


def test_any_number_of_images_is_served_and_other_sizes_run_by_the_modules(copied: Copied) -> None:
    model = any_size()
    source, fast, _ = twins(model, engine="copied")
    assert_served_by(copied, 1, fast, source, torch.randn(7, 3, 8, 8))
    assert_served_by(copied, 0, fast, source, torch.randn(2, 3, 9, 9))


def test_training_gradients_hooks_and_autocast_run_by_the_modules(copied: Copied) -> None:
    source, fast, images = twins(engine="copied")
    before = copied.calls
    x = images.clone().requires_grad_()
    with torch.enable_grad():
        fast.train()(images)
        fast.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        fast(images)
    seen: list[Any] = []
    handle = fast[1].register_forward_hook(lambda *args: seen.append(args))
    with torch.inference_mode():
        fast(images)
    handle.remove()
    assert len(seen) == 1
    assert copied.calls == before
    source.load_state_dict(fast.state_dict())
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(source(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "statistics"])
def test_changed_weights_run_by_the_modules_and_are_built_again_when_they_rest(copied: Copied, change: str) -> None:
    source, fast, images = twins(engine="copied")
    for model in (source, fast):
        torch.manual_seed(7)
        if change == "in place":
            with torch.no_grad():
                model[0][0].weight.mul_(-1.5)
        elif change == "loaded":
            model.load_state_dict({name: value + 0.25 for name, value in model.state_dict().items()})
        elif change == "replaced":
            model[2][3].weight = nn.Parameter(torch.randn_like(model[2][3].weight))
        else:
            model[0][1].running_mean.add_(1.0)
    built = copied.built
    assert_served_by(copied, 0, fast, source, images)
    for _ in range(12):
        assert_same(fast, source, images)
    assert copied.built == built + 1
    assert_served_by(copied, 1, fast, source, images)


def test_weights_that_go_on_changing_are_never_built(copied: Copied) -> None:
    source, fast, images = twins(engine="copied")
    built = copied.built
    for _ in range(20):
        for model in (source, fast):
            with torch.no_grad():
                model[0][0].weight.mul_(1.01)
        assert_served_by(copied, 0, fast, source, images)
    assert copied.built == built


def test_refresh_builds_at_once(copied: Copied) -> None:
    source, fast, images = twins(engine="copied")
    for model in (source, fast):
        model[1] = copy.deepcopy(model[1])
        with torch.no_grad():
            model[1].conv1.weight.neg_()
    assert_served_by(copied, 0, fast, source, images)
    updp_rt.refresh(fast)
    assert_served_by(copied, 1, fast, source, images)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_build_again(copied: Copied, duplicate: Any) -> None:
    source, fast, images = twins(engine="copied")
    twin, built = duplicate(fast), copied.built
    other = copy.deepcopy(source)
    for model in (twin, other):
        with torch.no_grad():
            model[0][0].weight.neg_()
    for _ in range(10):
        assert_same(twin, other, images)
    assert copied.built == built + 1
    assert_served_by(copied, 1, twin, other, images)
    assert_served_by(copied, 1, fast, source, images)
    again = duplicate(twin)  # prewarm builds at once
    assert_served_by(copied, 0, again, other, images)
    updp_rt.prewarm(again, images)
    assert_served_by(copied, 1, again, other, images)


def test_programs_built_again_are_compared_with_float64(copied: Copied, caplog: pytest.LogCaptureFixture) -> None:
    source, fast, images = twins(engine="copied")
    copied.wrong = True
    for refused in (1, 2):
        for model in (source, fast):
            with torch.no_grad():
                model[0][0].weight.mul_(-1.5)
        for _ in range(12):
            assert_same(fast, source, images)  # as the modules compute it
        assert caplog.text.count("engine 'copied' cannot run this model here: its results are wrong") == refused
        assert copied.built == 1 + refused
    with pytest.raises(updp_rt.AccelerationError, match=r"'copied'.*results are wrong"):
        updp_rt.prewarm(fast, images)
    with pytest.raises(updp_rt.AccelerationError, match=r"'copied'.*results are wrong"):
        updp_rt.refresh(fast)
    assert_same(fast, source, images)
    copied.wrong = False
    updp_rt.prewarm(fast, images)
    assert_served_by(copied, 1, fast, source, images)


def test_programs_for_any_number_of_images_are_built_where_others_are_asked_for(exact: Copied) -> None:
    source, fast, images = twins(engine="exact")
    assert exact.built == 1
    assert_served_by(exact, 1, fast, source, images)
    for count in (3, 4, 3, 4, 3, 4, 3):
        assert_served_by(exact, 0, fast, source, torch.randn(count, 3, 8, 8))
    assert_same(fast, source, torch.randn(4, 3, 8, 8))
    assert exact.built == 2
    for count in (1, 5):
        assert_served_by(exact, 1, fast, source, torch.randn(count, 3, 8, 8))
    updp_rt.prewarm(fast, torch.randn(6, 3, 8, 8))  # one of its own
    assert exact.built == 3
    for model in (source, fast):
        with torch.no_grad():
            model[0][0].weight.neg_()
    for count in (2, 5, 6) * 9:
        assert_same(fast, source, torch.randn(count, 3, 8, 8))
    assert exact.built == 6


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Copied:
    engine = Copied("exact")
    monkeypatch.setattr(engine, "exact", True)
    monkeypatch.setitem(ENGINES, "exact", engine)
    return engine


def test_while_a_program_is_built_the_one_before_goes_on_serving(
    monkeypatch: pytest.MonkeyPatch, exact: Copied
) -> None:
    """What is called within the build is another thread's call: it may ask at any time, and waits for nothing."""
    source, fast, _ = twins(engine="exact")
    images, build = torch.randn(5, 3, 8, 8), exact.build
    for _ in range(8):
        assert_same(fast, source, images)

    def served_meanwhile(*args: Any, **options: Any) -> Program:
        assert_served_by(exact, 1, fast, source, images)
        return build(*args, **options)

    monkeypatch.setattr(exact, "build", served_meanwhile)
    updp_rt.prewarm(fast, images)
    assert exact.built == 3


def test_what_was_looked_up_before_a_program_was_ready_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, exact: Copied
) -> None:
    """As where a thread is interrupted after it looked up what serves its images, before it keeps that."""
    source, fast, _ = twins(engine="exact")
    images, keys = torch.randn(5, 3, 8, 8), exact.keys
    interrupted = [partial(updp_rt.prewarm, fast, images)]

    def keys_in_time(x: Tensor) -> list[Any]:
        if interrupted:
            interrupted.pop()()
        return keys(x)

    monkeypatch.setattr(exact, "keys", keys_in_time)
    assert_same(fast, source, images)
    state = state_of(fast)
    assert state is not None
    assert state.key(images) == keys(images)[0]


def test_one_that_is_right_for_the_examples_number_of_images_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENGINES, "narrow", Copied("narrow", most=1))
    model = small_model()
    with pytest.raises(updp_rt.AccelerationError, match=r"'narrow'.*results are wrong"):
        updp_rt.accelerate(model.eval(), torch.randn(1, 3, 8, 8), engine="narrow", backends=["reference"])


def test_changed_weights_that_cannot_be_built_are_no_error_of_the_call(
    monkeypatch: pytest.MonkeyPatch, copied: Copied, caplog: pytest.LogCaptureFixture
) -> None:
    source, fast, images = twins(engine="copied")
    for model in (source, fast):
        with torch.no_grad():
            model[0][0].weight.neg_()
    monkeypatch.setattr(copied, "build", lambda model, example, wide: 1 // 0)
    for _ in range(12):
        assert_served_by(copied, 0, fast, source, images)
    assert caplog.text.count("engine 'copied' cannot run [2, 3, 8, 8], so the modules do") == 1


def test_an_engine_that_fails_is_refused_with_its_error(monkeypatch: pytest.MonkeyPatch, copied: Copied) -> None:
    def fails(model: nn.Module, example: Tensor, wide: bool) -> Program:
        raise RuntimeError("no kernel\nof this kind")

    monkeypatch.setattr(copied, "build", fails)
    with pytest.raises(updp_rt.AccelerationError, match=r"RuntimeError: no kernel$"):
        twins(engine="copied")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, copied: Copied) -> Iterator[dict[str, float]]:
    """Besides ``modules`` only stubs, and what is measured of each."""
    every = dict(ENGINES)
    ENGINES.clear()
    ENGINES.update({"modules": every["modules"], "copied": copied, "other": Copied("other")})
    seconds = {"modules": 3e-3, "copied": 1e-3, "other": 2e-3}
    monkeypatch.setattr(fastest, "time_side_by_side", lambda calls, **_: {name: seconds[name] for name in calls})
    yield seconds
    ENGINES.clear()
    ENGINES.update(every)  # in their order, too


def test_a_wrong_engine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, only: dict[str, float]) -> None:
    only["wrong"] = 1e-4
    monkeypatch.setitem(ENGINES, "wrong", Copied("wrong", wrong=True))
    with pytest.raises(updp_rt.AccelerationError, match=r"'wrong'.*results are wrong.*bound"):
        twins(engine="wrong")
    source, fast, images = twins(engine="auto")
    assert "results are wrong" in choice_of(fast).refused["wrong"]
    assert "wrong" not in choice_of(fast).times_ms["2x3x8x8 float32"]
    assert engine_of(fast) == "copied"
    assert_same(fast, source, images)


def test_auto_keeps_the_fastest_and_remembers_it(only: dict[str, float], copied: Copied) -> None:
    source, fast, images = twins(engine="auto")
    assert engine_of(fast) == "copied"
    assert choice_of(fast).times_ms == {"2x3x8x8 float32": {"modules": 3.0, "copied": 1.0, "other": 2.0}}
    assert "engines at 2x3x8x8 float32, ms: copied 1.00, other 2.00, modules 3.00" in str(updp_rt.explain(fast))
    assert_served_by(copied, 1, fast, source, images)
    other: Any = ENGINES["other"]
    built = other.built
    again = updp_rt.accelerate(copy.deepcopy(source), images, engine="auto", backends=["onednn", "reference"])
    assert engine_of(again) == "copied"
    assert other.built == built  # known from the table


def test_auto_remembers_which_engines_are_wrong(only: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Copied("wrong", wrong=True)
    monkeypatch.setitem(ENGINES, "wrong", wrong)
    source, _, images = twins(engine="auto")
    assert wrong.built == 1
    again = updp_rt.accelerate(copy.deepcopy(source), images, engine="auto", backends=["onednn", "reference"])
    assert wrong.built == 1
    assert engine_of(again) == "copied"
    assert "results are wrong" in choice_of(again).refused["wrong"]


def test_auto_runs_by_the_modules_where_they_are_fastest(only: dict[str, float]) -> None:
    only["modules"] = 0.5e-3
    source, fast, images = twins(engine="auto")
    assert engine_of(fast) == "modules"
    assert_same(fast, source, images)


def test_engines_beyond_the_limits_are_not_used(only: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, _ = twins(engine="auto", engine_limits=EngineLimits(seconds=0.0))
    assert engine_of(fast) == "modules"
    assert "were over" in choice_of(fast).refused["copied"]
    sizes = iter([0, 5_000_000] * 9)
    monkeypatch.setattr("updp_rt.runtime.memory.resident_bytes", lambda: next(sizes))
    _, fast, _ = twins(small_model(9), engine="auto", engine_limits=EngineLimits(bytes=4e6))
    assert engine_of(fast) == "modules"
    assert "takes 5 MB of memory, and 4 are allowed" in choice_of(fast).refused["copied"]


def test_threads_and_changing_numbers_of_images_agree_with_one_thread(copied: Copied) -> None:
    model = any_size()
    _, fast, _ = twins(model, engine="copied")
    images = [torch.randn(1 + i % 7, 3, 8, 8) for i in range(40)]
    with torch.inference_mode():
        wanted = [fast(x) for x in images]
    wrong: list[int] = []

    def serve() -> None:
        with torch.inference_mode():
            for i in range(250):
                if not torch.equal(fast(images[i % 40]), wanted[i % 40]):
                    wrong.append(i)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert copied.calls >= 1000


def test_what_an_engine_took_is_told(copied: Copied) -> None:
    _, fast, _ = twins(engine="copied")
    state = state_of(fast)
    assert state is not None
    assert state.seconds > 0
    assert choice_of(fast).seconds["copied"] == state.seconds
