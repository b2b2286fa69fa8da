"""BatchNorm statistics taken again on training images: what a subnet of a supernet needs before it is judged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every BatchNorm that runs to the plain mean over `batches`.

    Everything else stays in eval mode (no dropout, no gradients), and weights stay as they are.
    """
    training = model.training
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # cumulative average
    resets = [norm.register_forward_pre_hook(_ResetOnce()) for norm in norms]
    try:
        for images in batches:
            model(images)
    finally:
        for reset in resets:
            reset.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)


class _ResetOnce:
    """A hook that forgets a norm's statistics before its first batch; norms that never run keep theirs."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.seen:
            assert isinstance(norm, _BatchNorm)
            norm.reset_running_stats()
            self.seen = True
