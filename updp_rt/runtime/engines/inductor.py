"""torch's compiler on the source model with its weights as constants, which it lays out as its kernels like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from updp_rt.runtime.engines.base import key_of
from updp_rt.runtime.engines.compiled import lacks_compiler, own_code
from updp_rt.runtime.engines.constant import ConstantEngine, Program


class InductorEngine(ConstantEngine):
    """``torch.compile`` with frozen weights: torch's own operators, none of this project's."""

    name = "inductor"

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        reason = lacks_compiler(example)
        return reason is None, reason or ""

    def key(self, x: Tensor) -> Any:
        return key_of(x)

    def build(self, model: nn.Module, example: Tensor) -> Program:
        options: dict[str, Any] = {"freezing": True, "guard_filter_fn": lambda guards: [False] * len(guards)}
        run = torch.compile(own_code(lambda x: tree_leaves(model(x))), dynamic=False, options=options)
        run(example)
        return run
