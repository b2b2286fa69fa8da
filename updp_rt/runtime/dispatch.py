"""Which kernel runs a problem: the fastest that agrees with the reference, measured once and kept in a table."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from updp_rt._timing import time_side_by_side
from updp_rt.backends import BACKENDS, Kernel, Problem, Weights, arguments
from updp_rt.ops import accuracy
from updp_rt.runtime.device import capturing
from updp_rt.runtime.table import Entry, table_for

_log = logging.getLogger("updp_rt")
_lock = threading.RLock()
_checked: set[tuple[str, str]] = set()  # (problem, candidate) that agreed with the reference in this process

_CHECKED_ROWS = 256
_SURE = ("vendor:epilogue", "reference")


class AccelerationError(RuntimeError):
    """Under ``strict=True``: something that would otherwise have fallen back to a slower way."""


@dataclass(frozen=True)
class Policy:
    """How an accelerated model chooses.

    Attributes:
        strict: raise `AccelerationError` instead of falling back.
        backends: names of the backends that may be used; None: all.
    """

    strict: bool = False
    backends: tuple[str, ...] | None = None


@dataclass
class Choice:
    """The kernel chosen for one problem, and what it was chosen among."""

    problem: Problem
    candidate: str
    why: str
    times_ms: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    demoted: dict[str, str] = field(default_factory=dict)
    provisional: bool = False


def choose(
    problem: Problem,
    weights: Weights,
    x: Tensor,
    other: Tensor | None,
    policy: Policy,
    prepared: dict[str, Kernel],
) -> tuple[Choice, Kernel]:
    """The best kernel for `problem`; measures and checks on `x` and `other` what is unknown.

    Args:
        prepared: kernels by candidate that hold these weights already, packed for another shape; the one chosen is
            added, so that each candidate packs them once.

    While a graph is captured nothing is measured or checked: what the table holds and this process has checked is used,
    else the surest candidate. Call `prewarm` before capturing.

    Raises:
        AccelerationError: under a strict policy, where a candidate disagrees with the reference or fails to run.
        ValueError: the policy's backends cannot run the problem.
    """
    with _lock:
        choice, kernel = _Chooser(problem, weights, x, other, policy, prepared).choose()
        prepared[choice.candidate] = kernel
        return choice, kernel


class _Chooser:
    def __init__(
        self,
        problem: Problem,
        weights: Weights,
        x: Tensor,
        other: Tensor | None,
        policy: Policy,
        prepared: dict[str, Kernel],
    ) -> None:
        self.problem, self.weights, self.policy = problem, weights, policy
        self.x, self.other, self.prepared = x, other, prepared
        self.table = table_for(x.device)
        self.entry = self.table.entries.get(problem.key) or Entry()
        self.refused: dict[str, str] = {}
        self.candidates = list(self._candidates())
        if not self.candidates:
            raise ValueError(
                f"no backend among {', '.join(policy.backends or BACKENDS)} runs {problem.key}: "
                + "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
            )

    def choose(self) -> tuple[Choice, Kernel]:
        if capturing(self.x.device):
            return self._without_measuring()
        for name in self.candidates:
            if self.policy.strict and name in self.entry.demoted:
                raise self._unfit(name)
        kernels: dict[str, Kernel] = {}
        unknown = [name for name in self.candidates if name not in self.entry.times_ms | self.entry.demoted]
        if unknown:
            # All of them again: times taken in different rounds do not compare.
            self._measure(kernels)
        for name in sorted(self._usable(), key=lambda name: self.entry.times_ms[name]):
            kernel = kernels.get(name) or self._prepare(name)
            if kernel is not None and self._agrees(name, kernel):
                why = "the only candidate" if len(self.candidates) == 1 else "the fastest measured"
                return self._chosen(name, why), kernel
        raise ValueError(f"every candidate for {self.problem.key} failed: {self.entry.demoted}")

    def _candidates(self) -> Iterator[str]:
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
        return [name for name in self.candidates if name in self.entry.times_ms and name not in self.entry.demoted]

    def _measure(self, kernels: dict[str, Kernel]) -> None:
        for name in self.candidates:
            kernel = None if name in self.entry.demoted else self._prepare(name)
            if kernel is not None and self._agrees(name, kernel):
                kernels[name] = kernel
        calls = {name: _call(kernel, self.x, self.other) for name, kernel in kernels.items()}
        times = time_side_by_side(calls, rounds=7, device=self.x.device)
        self.entry.times_ms |= {name: seconds * 1e3 for name, seconds in times.items()}
        self._keep()

    def _prepare(self, name: str) -> Kernel | None:
        if name in self.prepared:
            return self.prepared[name]
        backend, _, config = name.partition(":")
        try:
            return BACKENDS[backend].prepare(self.problem, self.weights, config)
        except Exception as error:
            self._demote(name, f"it could not be prepared: {_first_line(error)}")
            return None

    def _agrees(self, name: str, kernel: Kernel) -> bool:
        """Whether `kernel` gives the reference's result on the last image or rows; checked once a process."""
        if (self.problem.key, name) in _checked:
            return True
        try:
            found = kernel(self.x, self.other)
        except Exception as error:
            self._demote(name, f"it failed to run: {_first_line(error)}")
            return False
        verdict = accuracy(
            self.problem.operator,
            self._tail(found),
            arguments(
                self.problem,
                self._tail(self.x),
                None if self.other is None else self._tail(self.other),
                tuple(None if w is None else w.detach() for w in self.weights),
            ),
        )
        if not verdict.passed:
            self._demote(name, f"its error of {verdict.error:.1e} is above the bound of {verdict.bound:.1e}")
            return False
        if verdict.compared:  # empty and NaN inputs show nothing
            _checked.add((self.problem.key, name))
        return True

    def _tail(self, tensor: Tensor) -> Tensor:
        # The end holds the incomplete tiles, where mistakes live; a part keeps the float64 reference cheap.
        if "linear" in self.problem.operator:
            return tensor.detach().reshape(-1, tensor.shape[-1])[-_CHECKED_ROWS:]
        return tensor.detach()[-1:]

    def _demote(self, name: str, reason: str) -> None:
        self.entry.demoted[name] = reason
        self._keep()
        _log.warning("%s is not used for %s: %s", name, self.problem.key, reason)
        if self.policy.strict:
            raise self._unfit(name)

    def _unfit(self, name: str) -> AccelerationError:
        return AccelerationError(f"{name} is not fit for {self.problem.key}: {self.entry.demoted[name]}")

    def _keep(self) -> None:
        self.table.entries[self.problem.key] = self.entry
        self.table.touch()

    def _without_measuring(self) -> tuple[Choice, Kernel]:
        known = [name for name in self._usable() if (self.problem.key, name) in _checked]
        if known:
            name, why = min(known, key=lambda name: self.entry.times_ms[name]), "the fastest measured"
        else:
            sure = [name for name in _SURE if name in self.candidates]
            name = (sure or self.candidates)[0]
            why = "not measured: first met while a graph was captured (prewarm() measures ahead)"
        kernel = self._prepare(name)
        if kernel is None:
            raise AccelerationError(f"{name} cannot be prepared inside graph capture: {self.entry.demoted[name]}")
        return self._chosen(name, why, provisional=not known), kernel

    def _chosen(self, name: str, why: str, provisional: bool = False) -> Choice:
        return Choice(
            self.problem, name, why, self.entry.times_ms, self.refused, self.entry.demoted, provisional=provisional
        )


def _call(kernel: Kernel, x: Tensor, other: Tensor | None) -> Callable[[], Tensor]:
    return lambda: kernel(x, other)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
