"""What a model is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

# One argument, such as images ``[N, C, H, W]``; or all of them, as a tuple.
Inputs = Tensor | dict[str, Any] | tuple[Any, ...]


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    return inputs if type(inputs) is tuple else (inputs,)


def tensors(inputs: Any) -> list[Tensor]:
    """All tensors of nested inputs or outputs, in order."""
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def change(inputs: Any, how: Callable[[Tensor], Tensor]) -> Any:
    """The same inputs with each tensor changed."""
    return tree_map(lambda leaf: how(leaf) if isinstance(leaf, Tensor) else leaf, inputs)


def count_images(inputs: Inputs, batched: bool) -> int:
    """Along the first dimension of the first tensor; one where that is no batch."""
    return tensors(inputs)[0].shape[0] if batched else 1
