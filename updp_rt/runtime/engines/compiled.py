"""The model compiled by torch: it sees the fused operators as operators, and fuses what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.runtime.bound import Calls, calling
from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.engines.base import Engine, EngineState, Key, attach, key_of, require_right
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.memory import Growth


class CompiledEngine(Engine):
    """``torch.compile`` of the whole model, for the input shapes that it was prepared for.

    Changed weights are followed: the operators are given the model's own tensors. In training, with hooks, and for
    other shapes the modules run.
    """

    name = "compiled"

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        reason = lacks_compiler(example)
        return reason is None, reason or ""

    def attach(self, model: nn.Module, policy: Policy) -> None:
        attach(model, _Compiled(model, type(model).forward, policy))


class _Compiled(EngineState):
    engine = "compiled"

    def __init__(self, model: nn.Module, forward: Callable[..., Any], policy: Policy) -> None:
        super().__init__(model)
        self._forward, self._calls = forward, Calls(policy)
        self._runs: dict[Key, Callable[[Tensor], Any]] = {}

    def prepare(self, example: Tensor, judge: Judge | None = None) -> None:
        if not self.ready or self.changed():
            self.refresh()
            self.watch()
        model, forward = self.model, self._forward
        # What the compiler would guard, and the sizes it would assert, `serves` checks in a tenth of the time.
        options: dict[str, Any] = {"guard_filter_fn": self.outside.take, "size_asserts": False}
        # It keeps programs by code object, so each gets its own.
        compiled = torch.compile(own_code(lambda x: forward(model, x)), dynamic=False, options=options)

        def run(x: Tensor) -> Any:
            with calling(self._calls):
                return compiled(x)

        growth = Growth()
        with torch.inference_mode(False), torch.no_grad():  # leaving inference_mode turns gradients on
            x = example.clone()
            run(x)
        key = key_of(x)
        taken = self.weigh(key, growth)
        if judge is not None:  # else its operators alone are
            require_right(self.engine, judge, run)
        self._runs[key], self._taken[key] = run, taken
        self.ready.add(key)

    def run(self, x: Tensor) -> Any:
        return self._runs[key_of(x)](x)


def own_code(function: Any) -> Any:
    """`function` with a code object that no other has."""
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)


def lacks_compiler(example: Tensor) -> str | None:
    """Why torch.compile cannot compile for inputs like `example`; None: it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if example.device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "torch.compile needs a C++ compiler for the CPU, and there is none"
    return None
