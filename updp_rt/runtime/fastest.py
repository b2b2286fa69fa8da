"""The engine that is fastest here: all that can run are built, compared with float64, and measured side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from updp_rt._progress import steps
from updp_rt._timing import time_side_by_side
from updp_rt.artifacts import fingerprint
from updp_rt.runtime.dispatch import Policy, passes
from updp_rt.runtime.engines import ENGINES, Engine, detach
from updp_rt.runtime.engines.base import EngineError, EngineState, WrongResultsError, resume, state_of
from updp_rt.runtime.fused import source_copy
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.table import Entry, table_for

_MODULES = "modules"  # runs always
_ALONE_SECONDS = 0.1
_ROUNDS = 7
# Those within this factor of the fastest are measured again, for longer: the rounds before tell them apart by chance.
_NEAR, _ROUNDS_OF_NEAR = 1.15, 41
_choices: WeakKeyDictionary[nn.Module, EngineChoice] = WeakKeyDictionary()


@dataclass(frozen=True)
class EngineLimits:
    """What building engines may take; one that needs more is refused.

    Attributes:
        seconds: in all; what is left when they are over is not built.
        bytes: that one engine adds to the memory of the process, with all its programs, those that are built later for
            other inputs too. One that would not fit is not kept: the modules run what it is for.
    """

    seconds: float = math.inf
    bytes: float = math.inf


@dataclass
class EngineChoice:
    """What was found of the engines.

    Attributes:
        times_ms: milliseconds by engine, for each shape of the examples.
        refused: why an engine is not used.
        seconds, bytes: what building an engine took, and added to the memory of the process.
    """

    times_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


def choice_of(model: nn.Module) -> EngineChoice:
    """What was found of the engines when `model` was accelerated."""
    return _choices.get(model) or EngineChoice()


def attach_checked(model: nn.Module, name: str, examples: Sequence[Tensor], policy: Policy) -> None:
    """Run `model` on one engine.

    Raises:
        EngineError: it cannot run it, or computes something else.
    """
    chooser = _Chooser(model, examples, policy, EngineLimits())
    state = chooser.built(ENGINES[name])
    if state is None:
        raise EngineError(name, chooser.choice.refused[name])
    chooser.finish(state)


def attach_fastest(model: nn.Module, examples: Sequence[Tensor], policy: Policy, limits: EngineLimits) -> None:
    """Run `model` on the engine whose times for the examples have the least product.

    What was found is kept in the tuned table, by the model's weights and the versions of the engines, and only the
    winner is built where all is known.
    """
    _Chooser(model, examples, policy, limits).choose()


class _Chooser:
    def __init__(self, model: nn.Module, examples: Sequence[Tensor], policy: Policy, limits: EngineLimits) -> None:
        self.model, self.examples, self.policy, self.limits = model, examples, policy, limits
        self.choice = EngineChoice()
        self.failed: dict[str, str] = {}  # of the refused, those that will always be
        self.begun = time.perf_counter()
        source = source_copy(model)
        self.judges = [Judge(source, example) for example in examples]

    def choose(self) -> None:
        table = table_for(self.examples[0].device)
        prints = fingerprint(self.model)
        keys = [f"engines of {prints[:16]} {_shown(example)}" for example in self.examples]
        entries = [table.entries.get(key) or Entry() for key in keys]
        able = {name: engine for name, engine in ENGINES.items() if self._able(engine)}
        failed = {name: reason for entry in entries for name, reason in entry.failed.items()}
        self.choice.refused |= {name: failed[_label(name)] for name in able if _label(name) in failed}
        able = {name: engine for name, engine in able.items() if name not in self.choice.refused}
        known = all(_label(name) in entry.times_ms for name in able for entry in entries)
        states: dict[str, EngineState | None] = {}
        if not (known or self.policy.measure is False):
            for engine in steps(list(able.values()), "building engines"):
                state = self.built(engine)
                if engine.name == _MODULES or state is not None:
                    states[engine.name] = state
            for example, key, entry in zip(self.examples, keys, entries, strict=True):
                calls = {_label(name): partial(_call, self.model, state, example) for name, state in states.items()}
                entry.times_ms |= _times_ms(calls, example, _ROUNDS)
                least = min(entry.times_ms[name] for name in calls)
                near = {name: call for name, call in calls.items() if entry.times_ms[name] < _NEAR * least}
                if len(near) > 1:
                    entry.times_ms |= _times_ms(near, example, _ROUNDS_OF_NEAR)
                entry.failed |= {_label(name): reason for name, reason in self.failed.items()}
                table.keep(key, entry)
            table.save()
        for example, entry in zip(self.examples, entries, strict=True):
            self.choice.times_ms[_shown(example)] = {
                name: entry.times_ms[_label(name)] for name in able if _label(name) in entry.times_ms
            }
        for name in self._fastest_first(list(states or able)):
            state = states[name] if name in states else self.built(able[name])
            if name == _MODULES or state is not None:
                self.finish(state)
                return

    def built(self, engine: Engine) -> EngineState | None:
        """What runs the model on `engine`, checked, not attached; None where it is refused, or for ``modules``."""
        if engine.name == _MODULES:
            return None
        try:
            state = self._build(engine)
        except Exception as error:
            lines = str(error).strip().splitlines()
            failed = f"it failed: {type(error).__name__}: {lines[0] if lines else ''}"
            self.choice.refused[engine.name] = error.reason if isinstance(error, EngineError) else failed
            if isinstance(error, WrongResultsError) or not (isinstance(error, EngineError) or passes(error)):
                self.failed[engine.name] = self.choice.refused[engine.name]
            return None
        finally:
            detach(self.model)
        return state

    def _build(self, engine: Engine) -> EngineState:
        name = engine.name
        if time.perf_counter() - self.begun > self.limits.seconds:
            raise EngineError(name, f"not built: {self.limits.seconds:g} s for building engines were over")
        engine.attach(self.model, self.policy)
        state = state_of(self.model)
        assert state is not None
        state.allowed = self.limits.bytes
        for example, judge in zip(self.examples, self.judges, strict=True):
            state.prepare(example, judge)
        self.choice.seconds[name], self.choice.bytes[name] = state.seconds, state.bytes
        return state

    def finish(self, state: EngineState | None) -> None:
        """Have the model run by `state`; None: by its modules."""
        _choices[self.model] = self.choice
        _serve_by(self.model, state)

    def _able(self, engine: Engine) -> bool:
        for example in self.examples:
            supported, reason = engine.supports(self.model, example)
            if not supported:
                self.choice.refused[engine.name] = reason
                return False
        return True

    def _fastest_first(self, names: list[str]) -> Iterator[str]:
        """By the product of their times; where nothing was measured, ``modules``."""

        def cost(name: str) -> float:
            times = [shape.get(name) for shape in self.choice.times_ms.values()]
            return math.inf if None in times else math.prod(time for time in times if time)

        yield from sorted((name for name in names if cost(name) < math.inf), key=cost)
        yield _MODULES


def _times_ms(calls: Mapping[str, Callable[[], Any]], example: Tensor, rounds: int) -> dict[str, float]:
    with torch.inference_mode():
        times = time_side_by_side(
            calls,
            rounds=rounds,
            round_seconds=0.15,
            alone_seconds=_ALONE_SECONDS,
            device=example.device,
            what="measuring engines",
        )
    return {name: seconds * 1e3 for name, seconds in times.items()}


def _serve_by(model: nn.Module, state: EngineState | None) -> None:
    detach(model)
    if state is not None:
        resume(model, state)


def _call(model: nn.Module, state: EngineState | None, x: Tensor) -> Any:
    """One call as it is served, with all that is checked before it."""
    _serve_by(model, state)
    return model(x)


def _label(name: str) -> str:
    """An engine with the version of what is not torch's own; the table's file is one torch's."""
    package = {"migraphx": "onnxruntime"}.get(name, name)
    return f"{name} {version(package)}" if package in ("onnxruntime", "openvino") else name


def _shown(x: Tensor) -> str:
    return f"{'x'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}"
