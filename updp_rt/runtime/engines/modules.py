"""The drop-in default: the model's own code calls its fused modules one by one."""

from __future__ import annotations

from torch import Tensor, nn

from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.engines.base import Engine


class ModulesEngine(Engine):
    """Nothing besides the fused modules."""

    name = "modules"

    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        return True, ""

    def attach(self, model: nn.Module, policy: Policy) -> None:
        pass
