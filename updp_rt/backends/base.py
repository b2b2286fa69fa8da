"""What a backend is: it says what it can run and why not, and prepares calls with their weights packed once."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from updp_rt.ops import Problem, Weights

# Called with the operator's inputs, in its order.
Prepared = Callable[..., Tensor]

# The activations over a fresh result, which nobody else holds.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu_,
    "relu6": lambda y: torch.clamp_(y, 0.0, 6.0),
    "gelu": torch._C._nn.gelu_,  # type: ignore[attr-defined]
    "silu": torch._C._nn.silu_,
}

_log = logging.getLogger("updp_rt")
_logged: set[tuple[str, str, str]] = set()


class Backend(ABC):
    """A way to run the fused operators.

    Attributes:
        sources: the files whose code runs, as patterns below the package's folder. Tuned tables and certificates hold
            for them as they are.
    """

    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]]

    @abstractmethod
    def supports(self, problem: Problem) -> tuple[bool, str]:
        """Whether this backend can run `problem`, and if not, why."""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """Names of the variants worth measuring, such as tiles; one without a name by default."""
        return ("",)

    @abstractmethod
    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        """A call for `problem`, its weights packed as this backend likes them.

        It must not write to its arguments, nor return one of them.
        """

    def refuses(self, problem: Problem) -> str | None:
        """The reason why `problem` cannot run here, logged the first time; None: it can."""
        supported, reason = self.supports(problem)
        if supported:
            return None
        entry = (self.name, problem.operator.name, reason)
        if entry not in _logged:
            _logged.add(entry)
            _log.info("%s does not run %s: %s", *entry)
        return reason
