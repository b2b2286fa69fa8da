"""Less memory for more time: blocks keep their input alone for the backward pass, and run again there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from updp_rt.blocks import ProgressiveBlock, UnsupportedModelError, find_family
from updp_rt.pruning.ranks import tracking


@contextmanager
def recomputed_blocks(model: nn.Module) -> Iterator[None]:
    """Inside, each block of `model` is computed again in the backward pass, bit for bit: gradient checkpointing.

    Random numbers are the same again, and BatchNorms follow a batch's statistics once.

    Raises:
        UnsupportedModelError: a model of no known family, whose blocks nobody knows.
    """
    blocks = outermost_blocks(model)
    for block in blocks:
        block.forward = partial(_run, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward")


def outermost_blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks of a model, progressive or as timm has them, without those that lie in others."""
    kinds: tuple[type[nn.Module], ...] = (ProgressiveBlock, *find_family(model).blocks)
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, kinds) and module not in inside:
            found.append(module)
            inside.update(module.modules())
    if not found:
        raise UnsupportedModelError("gradient checkpointing finds no blocks in this model")
    return found


def _run(block: nn.Module, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    found: Tensor = checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)
    return found


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    kept = [(norm, dict(norm._buffers)) for norm in tracking(block)]
    for norm, buffers in kept:
        norm._buffers.update({name: value.clone() for name, value in buffers.items() if value is not None})
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
