"""The model compiled by torch: it sees the fused operators as operators, and fuses what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.runtime.engines.base import Engine, EngineState, attach, key_of


class CompiledEngine(Engine):
    """``torch.compile`` of the whole model, for the input shapes that it was prepared for.

    Changed weights are followed: the operators are given the model's own tensors. In training, with hooks, and for
    other shapes the modules run.
    """

    name = "compiled"

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        if example.device.type == "cpu" and not _has_compiler():
            return False, "torch.compile needs a C++ compiler for the CPU, and there is none"
        return True, ""

    def attach(self, model: nn.Module) -> None:
        attach(model, _Compiled(model, type(model).forward))


class _Compiled(EngineState):
    engine = "compiled"

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__(model)
        self._run = torch.compile(lambda x: forward(model, x), dynamic=False)

    def prepare(self, example: Tensor) -> None:
        for inference in (False, True):
            with torch.inference_mode(inference), torch.no_grad():  # leaving inference_mode turns gradients on
                x = example.clone()
                self._run(x)
                self.ready.add(key_of(x))

    def run(self, x: Tensor) -> Any:
        return self._run(x)


def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
