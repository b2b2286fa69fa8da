"""What is asked of torch.cuda to capture a graph, where nothing computes: its streams, its pool, its errors."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from updp_rt.runtime.engines import recorders
from updp_rt.runtime.engines.recorders import CannotRecordError, GpuRecorder

GPU = torch.device("cuda", 0)


class Cuda:
    """Stands for torch.cuda and says what it was asked, in `said`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.streams = 0
        self.now = self.Stream()
        self.ends_well = True

    def Stream(self, device: Any = None) -> Any:  # noqa: N802 - torch's name
        cuda, number = self, self.streams
        self.streams += 1

        class Stream:
            def __str__(self) -> str:
                return f"s{number}"

            def wait_stream(self, other: Any) -> None:
                cuda.said.append(f"{self} waits for {other}")

        return Stream()

    def current_stream(self, device: Any = None) -> Any:
        return self.now

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def device(self, device: Any) -> Any:
        return nullcontext()

    def graph_pool_handle(self) -> str:
        return f"pool {len(self.said)}"

    def CUDAGraph(self) -> Any:  # noqa: N802
        cuda = self

        class Graph:
            def replay(self) -> None:
                cuda.said.append(f"replayed on {cuda.now}")

        return Graph()

    @contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.said.append(f"captures in {pool}, {capture_error_mode}")
        self.now = stream  # as torch's, which gives it back only where the capture ends well
        before = self.now
        try:
            yield
        finally:
            if not self.ends_well:
                raise RuntimeError("the capture was invalidated")
        self.now = before
        self.said.append("captured")

    def synchronize(self, device: Any) -> None:
        self.said.append("synchronized")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    for name in ("Stream", "current_stream", "stream", "device", "graph_pool_handle", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(torch.cuda, "synchronize", made.synchronize)
    monkeypatch.setattr(recorders, "architecture", lambda device: "gfx908")
    monkeypatch.setattr(recorders, "_captured", 0)
    return made


def test_runs_are_captured_on_one_side_stream_in_one_pool(cuda: Cuda) -> None:
    recorder = recorders.recorder_for(GPU)
    for _ in range(2):
        cuda.said.clear()
        replay, result = recorder.record(lambda: cuda.said.append(f"run on {cuda.now}") or gc.isenabled())
        assert result is False, "nothing is collected while it is captured"
        assert gc.isenabled()
        assert cuda.said == [
            "s1 waits for s0",
            "run on s1",
            "run on s1",
            "captures in pool 0, thread_local",
            "run on s1",
            "captured",
            "s0 waits for s1",
        ]
        cuda.said.clear()
        replay()
        assert cuda.said == ["replayed on s0"]


def test_replays_on_other_streams_wait_for_those_before(cuda: Cuda) -> None:
    recorder = GpuRecorder(GPU)
    other = cuda.Stream()
    recorder.begin()
    recorder.begin()
    assert cuda.said == []
    with cuda.stream(other):
        recorder.begin()
        recorder.begin()
    recorder.begin()
    recorder.wait()
    assert cuda.said == ["s2 waits for s0", "s0 waits for s2", "synchronized"]


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_went_wrong_first_is_said(cuda: Cuda, ends_well: bool) -> None:
    """A capture that was invalidated fails once more at its end; torch then leaves its stream current."""
    cuda.ends_well = ends_well
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    before = cuda.now
    with pytest.raises(CannotRecordError, match=r"^RuntimeError: operation not permitted when stream is capturing$"):
        GpuRecorder(GPU).record(run)
    assert cuda.now is before


def test_a_capture_that_fails_only_at_its_end_is_refused(cuda: Cuda) -> None:
    cuda.ends_well = False
    with pytest.raises(CannotRecordError, match="the capture was invalidated"):
        GpuRecorder(GPU).record(lambda: None)


def test_an_mi100_captures_no_more_than_its_driver_bears(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = GpuRecorder(GPU)
    for _ in range(40):
        recorder.record(lambda: None)
    with pytest.raises(CannotRecordError, match="40 graphs were captured in this process"):
        GpuRecorder(GPU).record(lambda: None)
    monkeypatch.setattr(recorders, "architecture", lambda device: "gfx942")
    recorder.record(lambda: None)


def test_nothing_records_on_a_cpu() -> None:
    with pytest.raises(CannotRecordError, match="the input is on cpu: move model and input to one"):
        recorders.recorder_for(torch.device("cpu"))
    assert recorders.lacks_recorder(GPU) is None
