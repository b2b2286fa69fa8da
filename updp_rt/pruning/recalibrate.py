"""BatchNorm statistics taken again on training images: what a subnet of a supernet needs before it is judged."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from updp_rt.pruning.ranks import average_statistics, processes, rank, tracking


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor], *, together: bool = False) -> None:
    """Set the running statistics of every BatchNorm that runs to the plain mean over `batches`.

    Everything else stays in eval mode (no dropout, no gradients), and weights stay as they are.

    Args:
        together: all processes of a training call this at once with the same batches: each takes those whose turn it
            is, and all end with the mean over all.
    """
    training = model.training
    norms = tracking(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # cumulative average
    resets = [_ResetOnce() for _ in norms]
    hooks = [norm.register_forward_pre_hook(reset) for norm, reset in zip(norms, resets, strict=True)]
    try:
        for images in islice(batches, rank(), None, processes()) if together else batches:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
    if together:
        counts = [_count(norm) if reset.seen else 0 for norm, reset in zip(norms, resets, strict=True)]
        for norm, total in zip(norms, average_statistics(norms, counts), strict=True):
            if total and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(int(total))


def _count(norm: _BatchNorm) -> int:
    return 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)


class _ResetOnce:
    """A hook that forgets a norm's statistics before its first batch; norms that never run keep theirs."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.seen:
            assert isinstance(norm, _BatchNorm)
            norm.reset_running_stats()
            self.seen = True
