"""What runs a problem: the fastest candidate that agrees with the reference, measured once and kept in a table."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final, Literal

import torch
from torch import Tensor

from updp_rt._timing import time_side_by_side
from updp_rt.backends import BACKENDS, Prepared
from updp_rt.ops import Problem, Weights, accuracy, part_problems
from updp_rt.runtime.device import capturing
from updp_rt.runtime.ranking import ranking
from updp_rt.runtime.table import Entry, table_for

_log = logging.getLogger("updp_rt")
_lock = threading.RLock()
_checked: set[tuple[str, str]] = set()  # (problem, candidate) that agreed with the reference in this process
_warned: set[tuple[str, str]] = set()

# The candidate of a whole block's operator that runs it in separate ones, each by the best candidate of its own.
SEPARATE: Final = "separate"
_SURE = (SEPARATE, "vendor:epilogue", "vendor:nchw-epilogue", "reference")
_RIVALS = 3  # measured where a projection ranks the candidates: its best, and the surest
# Packages whose own kinds of error say that a kernel failed, beside that of the backend itself.
_RAISING = ("torch", "triton", "subprocess", "updp_rt")


def _renew_lock() -> None:
    """A process that was forked while a thread measured has not that thread, which would let the lock go."""
    global _lock  # noqa: PLW0603 - the lock is one for the process
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class AccelerationError(RuntimeError):
    """Under ``strict=True``: something that would otherwise have fallen back to a slower way."""


@dataclass(frozen=True)
class Policy:
    """How an accelerated model chooses.

    Attributes:
        strict: raise `AccelerationError` instead of falling back.
        backends: names of the backends that may be used; None: all.
        measure: time what is unknown: all candidates where no projection ranks them, else the most promising; with
            ``all`` always all. False: choose by what is known.
    """

    strict: bool = False
    backends: tuple[str, ...] | None = None
    measure: bool | Literal["all"] = True


@dataclass
class Choice:
    """The candidate chosen for one problem, and what it was chosen among.

    Attributes:
        refused: why a backend cannot run the problem.
        demoted: why a candidate is not used: it failed to run, or disagreed with the reference on these weights.
        provisional: it was chosen without measuring.
        parts: what was chosen for each of the separate operators, if it runs in those.
    """

    problem: Problem
    candidate: str
    why: str
    times_ms: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    demoted: dict[str, str] = field(default_factory=dict)
    provisional: bool = False
    parts: tuple[Choice, ...] = ()


def choose(
    problem: Problem,
    weights: Weights,
    inputs: tuple[Tensor | None, ...],
    policy: Policy,
    prepared: dict[str, Prepared],
    part: str = "",
) -> tuple[Choice, Prepared]:
    """The best candidate for `problem`; checks on `inputs` what is unknown, and measures it if the policy says so.

    Args:
        prepared: calls by candidate that hold these weights already, packed for another shape; the one chosen is
            added, so that each candidate packs them once.
        part: what names in `prepared` begin with: which of the separate operators of a larger problem this is.

    While a graph is captured nothing is measured or checked: what the table holds and this process has checked is used,
    else the surest candidate. Call `prewarm` before capturing. Where torch's own operators fail on these inputs, their
    error is raised and nothing is kept.

    Raises:
        AccelerationError: under a strict policy, where a candidate disagrees with the reference or fails to run.
        ValueError: the policy's backends cannot run the problem.
    """
    if problem.device not in ("cpu", "cuda"):
        why = f"nothing is measured on {problem.device}"
        return Choice(problem, "reference", why, provisional=True), BACKENDS["reference"].prepare(problem, weights, "")
    with _lock:
        choice, call = _Chooser(problem, weights, inputs, policy, prepared, part).choose()
        if not choice.parts:  # which are chosen by shape
            prepared[part + choice.candidate] = call
        return choice, call


class _Chooser:
    def __init__(
        self,
        problem: Problem,
        weights: Weights,
        inputs: tuple[Tensor | None, ...],
        policy: Policy,
        prepared: dict[str, Prepared],
        part: str,
    ) -> None:
        self.problem, self.weights, self.inputs = problem, weights, inputs
        self.policy, self.prepared, self.part = policy, prepared, part
        self.parts: tuple[Choice, ...] = ()
        x = inputs[0]
        assert x is not None
        self.device = x.device
        self.table = table_for(self.device)
        self.entry = self.table.entries.get(problem.key) or Entry()
        self.entry.failed.pop("reference", None)  # it defines what is right: such a table is not believed
        self.demoted = dict(self.entry.failed)
        self.refused: dict[str, str] = {}
        self.candidates = list(self._candidates())
        if not self.candidates:
            raise ValueError(
                f"no backend among {', '.join(policy.backends or BACKENDS)} runs {problem.key}: "
                + "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
            )
        self.ranked = [name for name in ranking(problem, self.device) if name in self.candidates]

    def choose(self) -> tuple[Choice, Prepared]:
        if capturing(self.device):
            return self._without_measuring()
        for name in self.candidates:
            if self.policy.strict and name in self.demoted:
                raise self._unfit(name)
        measured = all(name in self.entry.times_ms for name in self._rivals())
        calls: dict[str, Prepared] = {}
        if self.policy.measure and not measured:
            calls, measured = self._measure(), True
        for name, why in self._best_first(measured):
            call = calls.get(name) or self._prepare(name)
            if call is not None and self._agrees(name, call):
                return self._chosen(name, "the only candidate" if len(self.candidates) == 1 else why), call
        raise ValueError(f"every candidate for {self.problem.key} failed: {self.demoted}")

    def _rivals(self) -> list[str]:
        """Those that must have been measured before a measurement decides."""
        fit = [name for name in self.candidates if name not in self.demoted]
        best = [name for name in self.ranked if name in fit]
        if not best or self.policy.measure == "all":
            return fit
        sure = [name for name in _SURE if name in fit][:1]  # no projection knows the vendor's library
        return [*best[: _RIVALS - len(sure)], *sure]

    def _best_first(self, measured: bool) -> Iterator[tuple[str, str]]:
        """Candidates that may run by what is known of them, and why each.

        Args:
            measured: enough was measured to decide; else a projection goes before measurements.
        """
        times = sorted(self._usable(), key=lambda name: self.entry.times_ms[name])
        known = [(times, "the fastest measured"), (self.ranked, "projected to be the fastest, not measured")]
        sure = [*(name for name in _SURE if name in self.candidates), *self.candidates]
        tried: set[str] = set()
        for names, why in (*(known if measured else reversed(known)), (sure, "the surest, as nothing was measured")):
            for name in names:
                if name not in tried and name not in self.demoted:
                    tried.add(name)
                    yield name, why

    def _candidates(self) -> Iterator[str]:
        # The plain operators alone are separate already.
        if self.problem.operator.parts(self.problem) and self.policy.backends != ("reference",):
            yield SEPARATE
        for backend in BACKENDS.values():
            if self.policy.backends is not None and backend.name not in self.policy.backends:
                continue
            reason = backend.refuses(self.problem)
            if reason is not None:
                self.refused[backend.name] = reason
                continue
            for config in backend.configs(self.problem):
                yield f"{backend.name}:{config}" if config else backend.name

    def _usable(self) -> list[str]:
        return [name for name in self.candidates if name in self.entry.times_ms and name not in self.demoted]

    def _measure(self) -> dict[str, Prepared]:
        """Time the rivals that run; returns them. Those that disagree are timed too: another model's may agree."""
        calls: dict[str, Prepared] = {}
        # What was measured before again: times taken in different rounds do not compare.
        for name in dict.fromkeys((*self._rivals(), *self._usable())):
            call = self._prepare(name)
            if call is not None:
                self._agrees(name, call)
                if name not in self.entry.failed:
                    calls[name] = call
        if calls:
            timed: dict[str, Callable[[], Tensor]] = {name: partial(c, *self.inputs) for name, c in calls.items()}
            times = time_side_by_side(timed, rounds=7, device=self.device)
            self.entry.times_ms |= {name: seconds * 1e3 for name, seconds in times.items()}
            self._keep()
        return calls

    def _prepare(self, name: str) -> Prepared | None:
        try:
            return self._prepared(name)
        except Exception as error:
            self._failed(name, "could not be prepared", error)
            return None

    def _prepared(self, name: str) -> Prepared:
        if name == SEPARATE:
            return self._separate()
        if self.part + name in self.prepared:
            return self.prepared[self.part + name]
        backend, _, config = name.partition(":")
        return BACKENDS[backend].prepare(self.problem, self.weights, config)

    def _separate(self) -> Prepared:
        """Chooses for each of the separate operators, on what the one before it gives."""
        named = dict(zip(self.problem.operator.weights, self.weights, strict=True))
        y, *others = self.inputs
        found: list[tuple[Choice, Prepared]] = []
        parts, problems = self.problem.operator.parts(self.problem), part_problems(self.problem)
        for i, (one, problem) in enumerate(zip(parts, problems, strict=True)):
            inputs = one.inputs(y, *others if one is parts[-1] else ())
            weights = tuple(named[name] for name in one.weights)
            found.append(choose(problem, weights, inputs, self.policy, self.prepared, f"{self.part}{i} "))
            y = found[-1][1](*inputs)
        self.parts = tuple(choice for choice, _ in found)
        calls = [call for _, call in found]

        def call(x: Tensor, *others: Tensor | None) -> Tensor:
            for one, run in zip(parts, calls, strict=True):
                x = run(*one.inputs(x, *others if one is parts[-1] else ()))
            return x

        return call

    def _agrees(self, name: str, call: Prepared) -> bool:
        """Whether `call` gives the reference's result on the last image or rows; checked once a process."""
        if (self.problem.key, name) in _checked:
            return True
        if name in self.demoted:
            return False
        if name == "reference":
            return self.plain is not None
        try:
            found = call(*self.inputs)
        except Exception as error:
            self._failed(name, "failed to run", error)
            return False
        operator = self.problem.operator
        end = tuple(None if x is None else operator.tail(x.detach()) for x in self.inputs)
        args = operator.assemble(end, self.weights, self.problem.attributes)
        verdict = accuracy(operator, operator.tail(found), args, operator.tail(self.plain))
        if not verdict.passed:
            self._demote(name, f"its error of {verdict.error:.1e} is above the bound of {verdict.bound:.1e}")
            return False
        if verdict.compared:  # empty and NaN inputs show nothing
            _checked.add((self.problem.key, name))
        return True

    @cached_property
    def plain(self) -> Tensor:
        """torch's own result on the same inputs, as the candidates see them; its error is that of the call itself."""
        operator = self.problem.operator
        with torch.no_grad():
            return operator.run_plain(*operator.assemble(self.inputs, self.weights, self.problem.attributes))

    def _failed(self, name: str, what: str, error: Exception) -> None:
        """`name` raised `error`. That is its own fault only where torch's operators do better on the same inputs."""
        if _is_from_outside(error, BACKENDS.get(name.partition(":")[0])):
            raise error
        assert self.plain is not None
        if not passes(error):
            self.entry.failed[name] = f"it {what}: {_first_line(error)}"
            self._keep()
        self._demote(name, f"it {what}: {_first_line(error)}")

    def _demote(self, name: str, reason: str) -> None:
        self.demoted[name] = reason
        if (self.problem.key, name) not in _warned:
            _warned.add((self.problem.key, name))
            _log.warning("%s is not used for %s: %s", name, self.problem.key, reason)
        if self.policy.strict:
            raise self._unfit(name)

    def _unfit(self, name: str) -> AccelerationError:
        return AccelerationError(f"{name} is not fit for {self.problem.key}: {self.demoted[name]}")

    def _keep(self) -> None:
        self.table.keep(self.problem.key, self.entry)

    def _without_measuring(self) -> tuple[Choice, Prepared]:
        known = [name for name in self._usable() if (self.problem.key, name) in _checked]
        if known:
            name, why = min(known, key=lambda name: self.entry.times_ms[name]), "the fastest measured"
        else:
            sure = [name for name in _SURE if name in self.candidates]
            name = (sure or self.candidates)[0]
            why = "not measured: first met while a graph was captured (prewarm() measures ahead)"
        call = self._prepared(name)
        return self._chosen(name, why, provisional=not known), call

    def _chosen(self, name: str, why: str, provisional: bool = False) -> Choice:
        # Of those that might run: what another policy measured, or what is wrong here, is no rival.
        times = {n: ms for n, ms in self.entry.times_ms.items() if n in self.candidates and n not in self.demoted}
        parts = self.parts if name == SEPARATE else ()
        if parts:
            why += f" ({', '.join(f'{part.problem.operator.name} by {part.candidate}' for part in parts)})"
        return Choice(self.problem, name, why, times, self.refused, self.demoted, provisional, parts)


def _is_from_outside(error: Exception, backend: object) -> bool:
    """Whether no kernel raised it: a time limit does so in whatever runs, from a signal's handler."""
    builtin = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    package = type(error).__module__.partition(".")[0]
    known = (*_RAISING, type(backend).__module__.partition(".")[0])
    return builtin in (Exception, TimeoutError) and package not in known


def passes(error: Exception) -> bool:
    """Whether it will not be so for ever: short memory, a full disk, a folder that cannot be written."""
    short = ("can't allocate memory", "out of memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
    return isinstance(error, MemoryError | OSError | torch.OutOfMemoryError) or any(s in str(error) for s in short)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
