"""A graph that a CPU can record: torch's operators and their tensors, run again on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.runtime.small import assert_same, twins
from updp_rt.runtime.engines import graph
from updp_rt.runtime.engines.recorders import Recorder, computes
from updp_rt.runtime.inductor import call


class TapeRecorder(Recorder):
    """Stands in for torch.cuda.graph: what Python did while it recorded is done once, as there.

    Attributes:
        recorded, replayed: how often it did so; waited: how often all replays were waited for.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = self.begun = self.waited = 0

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with _Tape():
            run()
        with _Tape() as tape:
            result = run()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return replay, result

    def begin(self) -> None:
        self.begun += 1

    def wait(self) -> None:
        self.waited += 1


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its whole compiler at the first call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        kwargs = kwargs or {}
        if space == "updp_rt":
            with self:  # what it is made of is what runs again
                return call(name)(*args, **kwargs)
        result = func(*args, **kwargs)
        if computes(func, (args, kwargs), result):
            self._steps.append((func, args, kwargs, result))
        return result

    def play(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for func, args, kwargs, result in self._steps:
                for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)


@contextmanager
def on_tape() -> Iterator[TapeRecorder]:
    """Within it, models on the engine ``graph`` are recorded on a CPU."""
    recorder = TapeRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "lacks_recorder", lambda device: None)
        patch.setattr(graph, "recorder_for", lambda device: recorder)
        yield recorder


def graph_twins(model: nn.Module | None = None) -> tuple[Any, Any, Tensor]:
    return twins(model, engine="graph")


def replays(tape: TapeRecorder, fast: nn.Module, source: nn.Module, images: Tensor) -> bool:
    """Whether a call was a replay; either way it gives what the source does."""
    before, recorded = tape.replayed, tape.recorded
    assert_same(fast, source, images)
    played = tape.replayed - before - (tape.recorded - recorded)  # each recording is checked by a replay
    assert played in (0, 1)
    return played == 1
