"""Engines whose programs hold the weights as constants: built from the source model, and left when weights change."""

from __future__ import annotations

import logging
import math
import threading
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.engines.base import Engine, EngineState, attach, key_of, require_right
from updp_rt.runtime.fused import source_copy
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.memory import Growth
from updp_rt.runtime.tensors import HeldStamps

_log = logging.getLogger("updp_rt")

# The output tensors of a model for its input, in the order that they lie in what it returns.
Program = Callable[[Tensor], list[Tensor]]


class ConstantEngine(Engine):
    """Runs programs that another compiler made of the source model, with its weights inside.

    When weights change, the modules run until they have rested for a few calls; then programs are built again.

    Attributes:
        exact: it has programs for inputs of one shape alone, which are its fastest.
        wide: it has programs for any number of images.
    """

    exact: ClassVar[bool] = False
    wide: ClassVar[bool] = True

    @abstractmethod
    def build(self, model: nn.Module, example: Tensor, wide: bool) -> Program:
        """A program for inputs like `example`, or for any number of such images; `model` is the source."""

    def keys(self, x: Tensor) -> list[Any]:
        """What programs for `x` go by, the fastest first."""
        return [key_of(x)] * self.exact + [(x.shape[1:], x.dtype, x.device)] * self.wide

    def attach(self, model: nn.Module, policy: Policy) -> None:
        attach(model, _Constant(model, self))


class _Constant(EngineState):
    """Programs of one model, and what the weights were when they were built.

    Which program serves a call is looked up without a lock, while others may be building: a program is there before
    its key is, a changed table of examples is another dictionary, and what was looked up last names the one it is of.

    Args:
        keys: of programs that are built when they are asked for.
        allowed: bytes that all of them may take.
    """

    REST = 8  # calls that find the weights as the last one did, before a program is built

    def __init__(
        self, model: nn.Module, engine: ConstantEngine, keys: Iterable[Any] = (), allowed: float = math.inf
    ) -> None:
        super().__init__(model)
        self.engine, self._make, self.allowed = engine.name, engine, allowed
        self._programs: dict[Any, tuple[Program, TreeSpec]] = {}
        self._examples: dict[Any, Tensor | None] = dict.fromkeys(keys)
        self._last: tuple[Any, ...] = (None,) * 6
        self._asked: defaultdict[Any, float] = defaultdict(float)
        self._building = threading.Lock()

    def key(self, x: Tensor) -> Any:
        examples = self._examples
        known, shape, strides, dtype, device, key = self._last  # most calls are like the one before
        if known is examples and x.shape == shape and x.stride() == strides and x.dtype is dtype and x.device == device:
            return key
        keys = self._make.keys(x)
        key = next((key for key in keys if key in examples), keys[0])
        self._last = (examples, *key_of(x), key)
        return key

    def watch(self) -> None:
        super().watch()
        self._stamps = HeldStamps((held, name) for held in self._holders for name in held)

    def again(self) -> Callable[[nn.Module], EngineState]:
        return partial(_made_again, self.engine, tuple(self._examples), self.allowed)

    def prepare(self, example: Tensor, judge: Judge | None = None) -> None:
        with self._building, torch.inference_mode(False):
            x = example.clone()  # dense, as programs take it
            first, *others = self._make.keys(x)
            self._build(first, x, judge)
            self._examples = dict.fromkeys(others) | self._examples  # those are built when they are asked for

    def refresh(self) -> None:
        with self._building:
            self.ready.clear()
            for key, example in self._examples.items():
                if example is not None:
                    self._build(key, example)

    def run(self, x: Tensor) -> Any:
        return _run(*self._programs[self.key(x)], x)

    def follows(self, x: Tensor) -> bool:
        return self.key(x) in self._examples

    def follow(self, x: Tensor) -> bool:
        """Build what is asked for again and again, while the weights rest; the call that comes to it waits for it."""
        key = self.key(x)
        self._asked[key] += 1
        if self._asked[key] < self.REST or not self._building.acquire(blocking=False):
            return False
        try:
            example = self._examples[key]
            self._build(key, _drawn(x) if example is None else example)
        except Exception as error:  # it is no fault of the call that came here
            _log.warning("engine %r cannot run %s, so the modules do: %s", self.engine, list(x.shape), error)
            self._asked[key] = -math.inf
        finally:
            self._building.release()
        return key in self.ready

    def _build(self, key: Any, x: Tensor, judge: Judge | None = None) -> None:
        with torch.inference_mode(False), torch.no_grad():
            if self.changed():
                self.ready.clear()
            if not self.ready:
                self.watch()
            growth = Growth()
            source = source_copy(self.model)
            leaves, form = tree_flatten(source(x))
            if not all(isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == len(x) for leaf in leaves):
                raise ValueError("it gives something else than tensors with a row for each image")
            wide = self._make.wide and key == self._make.keys(x)[-1]
            program = self._make.build(source, x, wide)
            run = partial(_run, program, form)
            run(x)
            taken = self.weigh(key, growth)
            require_right(self.engine, judge or Judge(source, x), run, torch.cat((x[:1], x)) if wide else None)
        self._programs[key], self._taken[key] = (program, form), taken
        if self._stamps.hold():  # they may have been changed meanwhile
            self.ready.add(key)
        self._examples = self._examples | {key: x}

    def _forms_hold(self) -> bool:
        if self._stamps.hold():
            return True
        self._stamps.renew()
        self.ready.clear()
        self._asked.clear()
        return False


def _made_again(engine: str, keys: tuple[Any, ...], allowed: float, model: nn.Module) -> EngineState:
    """The state of a copy, which builds what it is asked for."""
    from updp_rt.runtime.engines import parse_engine

    made = parse_engine(engine)
    assert isinstance(made, ConstantEngine)
    return _Constant(model, made, keys, allowed)


@torch.inference_mode(False)
def _drawn(x: Tensor) -> Tensor:
    """An input like `x` of values that tell right from wrong, as those at hand may not."""
    return torch.empty_like(x).copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


def _run(program: Program, form: TreeSpec, x: Tensor) -> Any:
    leaves = program(x)
    return leaves[0] if form.is_leaf() else tree_unflatten(leaves, form)
