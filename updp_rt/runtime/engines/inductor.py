"""torch's compiler on the source model with its weights as constants, which it lays out as its kernels like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from updp_rt.runtime.engines.compiled import lacks_compiler, own_code
from updp_rt.runtime.engines.constant import ConstantEngine, Program


class InductorEngine(ConstantEngine):
    """``torch.compile`` with frozen weights: torch's own operators, none of this project's."""

    name = "inductor"
    exact, wide = True, False

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        reason = lacks_compiler(example)
        return reason is None, reason or ""

    def build(self, model: nn.Module, example: Tensor, wide: bool) -> Program:
        options: dict[str, Any] = {"freezing": True, "guard_filter_fn": lambda guards: [False] * len(guards)}
        run = torch.compile(own_code(lambda x: tree_leaves(model(x))), dynamic=False, options=options)
        run(example)
        return run
