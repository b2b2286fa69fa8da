"""The model recorded into one graph for each input shape, which a GPU replays: one launch instead of all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from updp_rt.runtime.bound import Bound, Calls, calling
from updp_rt.runtime.device import capturing
from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.engines.base import Engine, EngineError, EngineState, Key, attach, key_of, require_right
from updp_rt.runtime.engines.reading import values_read
from updp_rt.runtime.engines.recorders import (
    CannotRecordError,
    Recorder,
    first_line,
    lacks_recorder,
    recorder_for,
)
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.tensors import HeldStamps

_log = logging.getLogger("updp_rt")

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
_TRIES = 3  # of a shape recorded before: other threads may wait for the device meanwhile, which HIP takes for an error
_OFF = 0.05  # relative; replays that read something stale are off by the size of the result


class GraphEngine(Engine):
    """A CUDA or HIP graph of the whole model for each input shape that it was prepared for.

    A call copies its input to where the graph reads it, replays, and hands out copies of the results. Where weights
    have changed, the modules run once more, and the next call records again. In training, with hooks, gradients or
    autocast, for other shapes, and inside another capture, the modules run. Calls from several threads wait for one
    another: all graphs of a model share their memory.
    """

    name = "graph"

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        reason = lacks_recorder(example.device)
        return reason is None, reason or ""

    def attach(self, model: nn.Module, policy: Policy) -> None:
        attach(model, _Graphs(model, policy))


class _Graph:
    """One recorded run.

    Args:
        held: what it reads for input.
        replay: runs it.
        result: what it writes: tensors and constants, in lists, dictionaries and the like.
        kept: what else it reads, and would be freed otherwise.
    """

    def __init__(self, held: Tensor, replay: Callable[[], None], result: Any, kept: list[Bound]) -> None:
        self._held, self._replay, self._result, self._kept = held, replay, result, kept

    def __call__(self, x: Tensor) -> Any:
        self._held.copy_(x)
        self._replay()
        return self._result.clone() if isinstance(self._result, Tensor) else tree_map(_clone, self._result)


class _Graphs(EngineState):
    engine = "graph"

    def __init__(self, model: nn.Module, policy: Policy) -> None:
        super().__init__(model)
        self._forward: Callable[..., Any] = type(model).forward
        self._policy, self._calls = policy, Calls(policy)
        self._lock = threading.RLock()
        self._graphs: dict[Key, _Graph] = {}
        self._failed: Counter[Key] = Counter()
        self._recorder: Recorder | None = None

    def watch(self) -> None:
        super().watch()
        self.outside.watch(values_read(self._modules))
        tensors = [
            (module.__dict__, name)
            for module in self._modules
            for name, value in module.__dict__.items()
            if isinstance(value, Tensor)
        ]
        self._weights = HeldStamps([*((held, name) for held in self._holders for name in held), *tensors])

    def refresh(self) -> None:
        super().refresh()
        with self._lock:
            self._drop()

    def again(self) -> Callable[[nn.Module], EngineState]:
        return partial(_made_again, self._policy, frozenset(self.ready))

    def prepare(self, example: Tensor, judge: Judge | None = None) -> None:
        with self._lock:
            if not self.ready or self.changed():
                self.refresh()
                self.watch()
            self._follow_weights()
            key = key_of(example)
            if key not in self._graphs:
                begun = time.perf_counter()
                self._record(example)
                self.seconds += time.perf_counter() - begun
            if judge is not None:  # each replay was compared with the modules
                require_right(self.engine, judge, self.run)
            self.ready.add(key)

    def serves(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return super().serves(model, args, kwargs) and not capturing(args[0].device)

    def run(self, x: Tensor) -> Any:
        with self._lock:
            if not self._follow_weights():
                graph = self._graphs.get(key_of(x)) or self._record_again(x)
                if graph is not None:
                    return self._replay(graph, x)
        return self._forward(self.model, x)

    def _replay(self, graph: _Graph, x: Tensor) -> Any:
        assert self._recorder is not None
        self._recorder.begin()
        return graph(x)

    def _follow_weights(self) -> bool:
        """Let go of graphs of other weights than the model's; whether there were such."""
        if self._weights.hold():
            return False
        self._drop()
        self._weights.renew()
        return True

    def _drop(self) -> None:
        if self._recorder is not None:
            self._recorder.wait()
        # In this order: memory is freed with the last graph that is recorded in it.
        self._graphs, self._recorder = {}, None

    def _record_again(self, x: Tensor) -> _Graph | None:
        """A new graph for a shape that there was one for; None where that cannot be any more."""
        try:
            return self._record(x)
        except EngineError as error:
            if self._policy.strict:
                raise
            key = key_of(x)
            self._failed[key] += 1
            if self._failed[key] == _TRIES:
                del self._failed[key]
                self.ready.discard(key)
            _log.warning("%s; its modules run for %s", error, tuple(x.shape))
            return None

    def _record(self, x: Tensor) -> _Graph:
        """Record the model on inputs like `x`, and check a replay on `x`.

        Raises:
            EngineError: and why it cannot be.
        """
        try:
            with torch.inference_mode(False), torch.no_grad():  # leaving inference_mode turns gradients on
                graph = self._recorded(x.clone())
        except CannotRecordError as error:
            raise EngineError(self.engine, str(error)) from error
        except Exception as error:  # whatever a model's code raises where it is not run as usual
            raise EngineError(self.engine, first_line(error)) from error
        self._graphs[key_of(x)] = graph
        self._failed.pop(key_of(x), None)
        return graph

    def _recorded(self, x: Tensor) -> _Graph:
        model, forward = self.model, self._forward
        if not self._weights.hold():
            raise CannotRecordError("its weights were made under torch.inference_mode(), which records no updates")
        self._recorder = self._recorder or recorder_for(x.device)
        held = torch.zeros_like(x)  # of no use for the check
        with calling(self._calls):
            replay, result = self._recorder.record(lambda: forward(model, held))
        strange = [type(part).__name__ for part in tree_leaves(result) if not isinstance(part, (Tensor, *_CONSTANTS))]
        if strange:
            raise CannotRecordError(f"it returns a {strange[0]}, in which results cannot be told")
        if not self._weights.hold() or self.changed():
            raise CannotRecordError("it changes its own weights, buffers or attributes, which no replay would")
        kept = [site.bound for _, _, fusion in fused_modules(model) for site in fusion.sites.values() if site.bound]
        graph = _Graph(held, replay, result, kept)
        found, wanted = (tree_leaves(each) for each in (self._replay(graph, x), forward(model, x)))
        if len(found) != len(wanted) or not all(map(_alike, found, wanted)):
            raise CannotRecordError(
                "a replay gives another result than its modules: it draws random numbers, or computes beside the GPU"
            )
        return graph


def _made_again(policy: Policy, ready: frozenset[Key], model: nn.Module) -> EngineState:
    """The state of a copy, which records when it first serves."""
    made = _Graphs(model, policy)
    made.ready |= ready
    return made


def _clone(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) else part


def _alike(found: Any, wanted: Any) -> bool:
    """Whether two results are the same but for what libraries may round differently from call to call."""
    if not isinstance(wanted, Tensor):
        return bool(found == wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    room = _OFF * float(wanted.abs().nan_to_num(0.0, 0.0, 0.0).max()) if wanted.numel() else 0.0
    return torch.allclose(found.double(), wanted.double(), rtol=0.0, atol=room, equal_nan=True)
