"""Models that run as one recorded graph: when it is replayed, when recorded again, when the modules run instead."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.runtime.small import assert_same, small_model, twins
from tests.runtime.tape import TapeRecorder, graph_twins, on_tape, replays
from updp_rt import ops
from updp_rt.runtime.engines import engine_of
from updp_rt.runtime.engines.recorders import recorder_for
from updp_rt.runtime.fused import fused_modules


@pytest.fixture(autouse=True)
def tape() -> Iterator[TapeRecorder]:
    with on_tape() as recorder:
        yield recorder


@torch.no_grad()
def test_it_is_the_same_drop_in(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    assert tape.recorded == 1
    for x in (images, torch.randn_like(images), images.clone().mul_(3)):
        assert replays(tape, fast, source, x)
    assert engine_of(fast) == updp_rt.explain(fast).engine == "graph"
    assert [type(m).__name__ for m in fast.modules()][1:] == [
        type(m).__name__ for m in updp_rt.accelerate(source, images, backends=["onednn", "reference"]).modules()
    ][1:]
    assert list(fast.state_dict()) == list(source.state_dict())
    back = updp_rt.restore(fast)
    assert [type(m) for m in back.modules()] == [type(m) for m in source.modules()]
    assert [set(vars(m)) for m in back.modules()] == [set(vars(m)) for m in source.modules()]
    assert_same(back, source, images)
    assert tape.recorded == 1


@torch.no_grad()
def test_results_are_the_callers_own() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Any:
            y = self.net(x)
            return {"y": y, "same": [y, y.view(-1, 2, 4)], "input": x, "scale": 2, "none": None}

    source = Many().eval()
    x = torch.randn(3, 8)
    fast = updp_rt.accelerate(source, x, engine="graph")
    first = fast(x)
    kept = copy.deepcopy(first)
    x.zero_()
    second = fast(torch.randn(3, 8))
    for leaf in (second["y"], *second["same"], second["input"]):
        leaf.fill_(torch.nan)
    assert torch.equal(first["same"][1], kept["same"][1])
    assert all(torch.equal(first[name], kept[name]) for name in ("y", "input"))
    third = fast(x)
    assert (third["scale"], third["none"]) == (2, None)
    assert torch.equal(third["input"], x)
    assert torch.allclose(third["y"], source(x)["y"])


def test_inputs_may_be_made_in_any_mode_and_served_in_any_other(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    with torch.inference_mode():
        made_inside = images.clone()
    for x in (images, made_inside):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert replays(tape, fast, source, x)
                assert fast(x).is_inference() == (mode is torch.inference_mode)
    with torch.inference_mode():
        updp_rt.prewarm(fast, made_inside[:1])
    with torch.no_grad():
        assert replays(tape, fast, source, images[:1])
    assert tape.recorded == 2


@torch.no_grad()
def test_other_shapes_run_by_the_modules_until_they_are_asked_for(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    other = torch.randn(3, 3, 8, 8)
    for x in (other, images.to(memory_format=torch.channels_last)):
        assert not replays(tape, fast, source, x)
        updp_rt.prewarm(fast, x)
        recorded = tape.recorded
        updp_rt.prewarm(fast, x)
        assert tape.recorded == recorded, "it is there"
        assert replays(tape, fast, source, x)
    assert replays(tape, fast, source, images)
    shapes = updp_rt.explain(fast).ready
    assert shapes == ["float32 2x3x8x8", "float32 2x3x8x8, strides 192x1x24x3", "float32 3x3x8x8"]
    assert "engine graph, ready for float32 2x3x8x8; float32 2x3x8x8, strides" in " ".join(
        str(updp_rt.explain(fast)).split()
    )
    assert_same(fast.double(), source.double(), images.double())


@torch.no_grad()
def test_what_no_replay_shows_is_run_by_the_modules(tape: TapeRecorder) -> None:
    source, fast, images = graph_twins()
    seen: list[str] = []
    for place in (fast[1].conv1, fast[2][0], fast[0]):
        handle = place.register_forward_hook(lambda m, a, y: seen.append("hook"))
        assert not replays(tape, fast, source, images)
        handle.remove()
    assert seen == ["hook"] * 3
    handle = nn.modules.module.register_module_forward_pre_hook(lambda m, a: None)
    assert not replays(tape, fast, source, images)
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        before = tape.replayed
        assert fast(images).dtype == source(images).dtype == torch.bfloat16
    fast[1].bn1.train(), source[1].bn1.train()
    assert not replays(tape, fast, source, images)
    fast.eval(), source.eval()
    with torch.enable_grad():
        fast(images.clone().requires_grad_()).sum()
    assert tape.replayed == before
    replays(tape, fast, source, images)  # the norm's statistics are new
    assert replays(tape, fast, source, images)


def test_within_another_capture_the_modules_run(tape: TapeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    source, fast, images = graph_twins()
    monkeypatch.setattr("updp_rt.runtime.engines.graph.capturing", lambda device: True)
    with torch.no_grad():
        assert not replays(tape, fast, source, images)
        monkeypatch.setattr("updp_rt.runtime.engines.graph.capturing", lambda device: False)
        assert replays(tape, fast, source, images)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@torch.no_grad()
def test_copies_record_again(tape: TapeRecorder, make: Callable[[Any], Any]) -> None:
    source, fast, images = graph_twins()
    other = make(fast)
    assert engine_of(other) == "graph"
    assert list(fused_modules(other))
    assert tape.recorded == 1
    assert replays(tape, other, source, images)
    assert tape.recorded == 2
    with torch.no_grad():
        other[1].conv1.weight.mul_(2)
    assert not torch.allclose(other(images), fast(images))
    assert replays(tape, fast, source, images), "the original is as it was"
    assert_same(updp_rt.restore(make(fast)), source, images)
    assert replays(tape, make(make(fast)), source, images)


@torch.no_grad()
def test_a_copy_where_nothing_records_runs_by_its_modules(tape: TapeRecorder, caplog: pytest.LogCaptureFixture) -> None:
    """As one that was pickled on a machine with a GPU."""
    source, fast, images = graph_twins()
    other = pickle.loads(pickle.dumps(fast))
    with pytest.MonkeyPatch.context() as patch:  # undone before the tape's own
        patch.setattr("updp_rt.runtime.engines.graph.recorder_for", recorder_for)
        for _ in range(5):
            assert not replays(tape, other, source, images)
    assert caplog.text.count("graphs are captured on a GPU, and the input is on cpu") == 3


@torch.no_grad()
def test_operators_without_weights_keep_to_the_models_backends(tape: TapeRecorder) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(ops.attention(self.qkv(x), 2))

    source, x = Attending().eval(), torch.randn(2, 5, 16)
    fast = updp_rt.accelerate(source, x, engine="graph", backends=["reference"])
    assert replays(tape, fast, source, torch.randn(2, 5, 16))
    calls = fast.__dict__["_updp_rt_engine"]._calls
    assert [bound.policy.backends for bound in calls.bound.values()] == [("reference",)]


@torch.no_grad()
def test_threads_wait_for_one_another() -> None:
    source, fast, images = graph_twins()
    xs = [torch.randn_like(images) for _ in range(8)]
    wanted = [source(x) for x in xs]
    failures: list[int] = []

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(fast(xs[number]), wanted[number], rtol=1e-4, atol=1e-4):
                    failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@torch.no_grad()
def test_packed_weights_outlive_the_modules_own(tape: TapeRecorder) -> None:
    """A graph knows them by address."""
    source, fast, images = graph_twins()
    packed = [weakref.ref(site.bound) for _, _, fusion in fused_modules(fast) for site in fusion.sites.values()]
    fast.to(torch.float32)
    gc.collect()
    assert all(site.bound is None for _, _, fusion in fused_modules(fast) for site in fusion.sites.values())
    assert all(bound() is not None for bound in packed)
    assert replays(tape, fast, source, images)


@torch.no_grad()
def test_certified_like_any_other(tape: TapeRecorder) -> None:
    source = small_model().eval()
    images = torch.randn(2, 3, 8, 8)
    fast = updp_rt.accelerate(source, images, engine="graph", certify=True, backends=["onednn", "reference"])
    replayed = tape.replayed
    certificate = updp_rt.verify(source, fast, images)
    assert certificate.passed
    assert certificate.engine == "graph"
    assert tape.replayed > replayed


# What cannot be recorded


class Drawing(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + torch.randn(8)


class Counting(nn.Linear):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input)


class Averaging(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, input: Tensor) -> Tensor:
        self.mean.lerp_(input.mean(0), 0.1)
        return super().forward(input) - self.mean


class InPython(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * float(input.detach().numpy().max())


class Answer:
    def __init__(self, y: Tensor) -> None:
        self.y = y


class Answering(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        y = super().forward(input)
        return y, Answer(y)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (partial(Drawing, 8, 8), "a replay gives another result than its modules"),
        (partial(Counting, 8, 8), "it changes its own weights, buffers or attributes"),
        (Averaging, "it changes its own weights, buffers or attributes"),
        (partial(InPython, 8, 8), "a replay gives another result than its modules"),
        (partial(Answering, 8, 8), "it returns a Answer, in which results cannot be told"),
    ],
    ids=["Drawing", "Counting", "Averaging", "InPython", "Answering"],
)
def test_what_no_graph_can_repeat_is_refused(kind: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), kind()).eval()
    with pytest.raises(updp_rt.AccelerationError, match=f"engine 'graph' cannot run this model here: {reason}"):
        updp_rt.accelerate(model, torch.randn(3, 8), engine="graph", inplace=True)
    assert not list(fused_modules(model))
    assert engine_of(model) == "modules"


@pytest.mark.parametrize("strict", [False, True])
@torch.no_grad()
def test_what_cannot_be_recorded_any_more_runs_by_its_modules(
    tape: TapeRecorder, strict: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, fast, images = twins(engine="graph", strict=strict, backends=["reference"])

    def fails(run: Callable[[], Any]) -> Any:
        raise torch.OutOfMemoryError("no memory is left\nfor it")

    monkeypatch.setattr(tape, "record", fails)
    for each in (source, fast):
        each[0][0].weight.mul_(2)
    assert_same(fast, source, images)
    message = "engine 'graph' cannot run this model here: OutOfMemoryError: no memory is left"
    for _ in range(5):
        if strict:
            with pytest.raises(updp_rt.AccelerationError, match=message):
                fast(images)
        else:
            assert not replays(tape, fast, source, images)
    said = caplog.text.count(f"{message}; its modules run for (2, 3, 8, 8)")
    assert said == (0 if strict else 3), "it is tried a few times"
    monkeypatch.undo()
    updp_rt.prewarm(fast, images)
    assert replays(tape, fast, source, images)
