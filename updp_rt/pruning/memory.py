"""What training holds in memory: weights, gradients, the optimizer's moments, and what the backward pass needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.pruning.recompute import outermost_blocks

_PER_WEIGHT = 4  # a weight, its gradient and AdamW's two moments


class SavedForBackward:
    """A context that counts what autograd keeps of forward passes inside it, in bytes: each piece of memory once.

    Weights and buffers of `model` do not count: they are there anyway. A model on the meta device will do.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Kept since the start, or since `forget`."""
        return sum(self._sizes.values())

    def forget(self) -> None:
        """Count from zero, once a backward pass has let go of all."""
        self._sizes.clear()

    def __enter__(self) -> SavedForBackward:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._own:
            self._sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor.detach()


def state_bytes(model: nn.Module) -> int:
    """Weights of `model`, their gradients and AdamW's moments."""
    return sum(_PER_WEIGHT * p.numel() * p.itemsize for p in model.parameters() if p.requires_grad)


def largest_block(model: nn.Module, images: Tensor) -> int:
    """Bytes that the block of `model` that needs most keeps for the backward pass: what is held while it runs again."""
    most, before = 0, 0

    def begin(*_: Any) -> None:
        nonlocal before
        before = saved.bytes

    def end(*_: Any) -> None:
        nonlocal most
        most = max(most, saved.bytes - before)

    blocks = outermost_blocks(model)
    hooks = [hook for b in blocks for hook in (b.register_forward_pre_hook(begin), b.register_forward_hook(end))]
    try:
        with SavedForBackward(model) as saved:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return most


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
