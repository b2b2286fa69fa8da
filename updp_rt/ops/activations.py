"""The activations that fused operators end with. Kernels know them by their place in this table."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,  # the exact one, with erf
    "silu": F.silu,
}


def finish(y: Tensor, residual: Tensor | None, act: str) -> Tensor:
    """``act(y + residual)``: the order is bias, then residual, then activation."""
    return ACTIVATIONS[act](y if residual is None else y + residual)
