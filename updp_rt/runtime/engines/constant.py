"""Engines whose programs hold the weights as constants: built from the source model, and left when weights change."""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.engines.base import Engine, EngineState, attach
from updp_rt.runtime.fused import source_copy
from updp_rt.runtime.memory import resident_bytes
from updp_rt.runtime.tensors import HeldStamps

_log = logging.getLogger("updp_rt")

# The output tensors of a model for its input, in the order that they lie in what it returns.
Program = Callable[[Tensor], list[Tensor]]


class ConstantEngine(Engine):
    """Runs programs that another compiler made of the source model, with its weights inside.

    When weights change, the modules run until they have rested for a few calls; then programs are built anew.
    """

    @abstractmethod
    def build(self, model: nn.Module, example: Tensor) -> Program:
        """A program for inputs like `example`; `model` is the source."""

    def key(self, x: Tensor) -> Any:
        """What tells the inputs of one program from those of another: here all but the number of images."""
        return x.shape[1:], x.dtype, x.device

    def attach(self, model: nn.Module, policy: Policy) -> None:
        attach(model, _Constant(model, self))


class _Constant(EngineState):
    """Programs of one model, and what the weights were when they were built."""

    REST = 8  # calls that find the weights as the last one did, before programs are built anew

    def __init__(self, model: nn.Module, engine: ConstantEngine) -> None:
        super().__init__(model)
        self.engine, self._make = engine.name, engine
        self._programs: dict[Any, tuple[Program, TreeSpec]] = {}
        self._examples: dict[Any, Tensor] = {}
        self._rested = 0
        self._building = threading.Lock()

    def key(self, x: Tensor) -> Any:
        return self._make.key(x)

    def watch(self) -> None:
        super().watch()
        self._stamps = HeldStamps((held, name) for held in self._holders for name in held)

    def prepare(self, example: Tensor) -> None:
        with self._building, torch.inference_mode(False), torch.no_grad():
            if not self.ready:
                self.watch()
            begun, before = time.perf_counter(), resident_bytes()
            x = example.clone()
            source = source_copy(self.model)
            leaves, form = tree_flatten(source(x))
            if not all(isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == len(x) for leaf in leaves):
                raise ValueError("it gives something else than tensors with a row for each image")
            program = self._make.build(source, x)
            self._programs[self.key(x)] = program, form
            self._examples[self.key(x)] = x
            self.run(x)
            self.seconds += time.perf_counter() - begun
            self.bytes += max(0, resident_bytes() - before)
            self.ready.add(self.key(x))

    def refresh(self) -> None:
        examples, self._examples = list(self._examples.values()), {}
        self.ready.clear()
        for example in examples:
            self.prepare(example)

    def run(self, x: Tensor) -> Any:
        program, form = self._programs[self.key(x)]
        leaves = program(x)
        return leaves[0] if form.is_leaf() else tree_unflatten(leaves, form)

    def _forms_hold(self) -> bool:
        if self._stamps.hold():
            if self._rested:
                self._rested += 1
                if self._rested > self.REST:
                    self._build_again()
            return bool(self.ready) and not self._rested
        self._stamps.renew()
        self._rested = 1
        return False

    def _build_again(self) -> None:
        """Build what was built before from the weights as they are; the call that comes here waits for it."""
        if self._building.locked():
            return
        try:
            for example in list(self._examples.values()):
                self.prepare(example)
        except Exception as error:  # it is no fault of the call that came here
            _log.warning("engine %r cannot run the changed model, so its modules do: %s", self.engine, error)
            self.ready.clear()
        self._rested = 0
