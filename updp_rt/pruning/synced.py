"""BatchNorm over the images of all processes while a model is trained: as one process with the whole batch has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from updp_rt.pruning.ranks import processes


@contextmanager
def synced_batch_norms(model: nn.Module) -> Iterator[None]:
    """Inside, every BatchNorm in training mode takes mean and variance over all processes, of whatever class it is.

    torch's own SyncBatchNorm runs on GPUs alone and is a class that models would have to be rebuilt with.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if processes() > 1 else []
    for norm in norms:
        norm.forward = partial(_run, norm, norm.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward")


def _run(norm: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not norm.training:
        return forward(x)
    with _Instead():
        return forward(x)


class _Instead(TorchFunctionMode):
    """Whatever a norm does beside (flattening tokens, an activation) stays as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` of ``[N, C, ...]`` in training, with the statistics of all processes.

    The number of images may differ between them. Sums are float32, or float64 for such an `x`.
    """
    assert training
    y, mean, var = _Normalise.apply(x, weight, bias, eps)
    for running, found in ((running_mean, mean), (running_var, var)):
        if running is not None:
            running.lerp_(found.to(running.dtype), momentum)
    return y


class _Normalise(torch.autograd.Function):
    """Gives the normalised `x`, and what running statistics follow: mean and unbiased variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = _wide(x)
        var, mean = torch.var_mean(wide, _others(x), correction=0)
        count = mean.new_tensor([x.numel() // x.shape[1]])
        found = _gathered(torch.cat([mean, var, count]))
        means, variances, counts = found.split([len(mean), len(mean), 1], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean).square())).sum(0) / total
        inverse = (var + eps).rsqrt()
        y = (wide - _over(mean, x)) * _over(inverse if weight is None else inverse * weight, x)
        if bias is not None:
            y = y + _over(bias, x)
        ctx.save_for_backward(x, weight, mean, inverse, total)
        unbiased = var * total / (total - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean, unbiased)
        return y.to(x.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, mean, inverse, total = ctx.saved_tensors
        given = _wide(gradients[0])
        normalised = (_wide(x) - _over(mean, x)) * _over(inverse, x)
        to_bias, to_weight = given.sum(_others(x)), (given * normalised).sum(_others(x))
        both = torch.cat([to_bias, to_weight])
        dist.all_reduce(both)
        first, second = (both / total).chunk(2)
        scale = inverse if weight is None else inverse * weight
        to_x = (given - _over(first, x) - normalised * _over(second, x)) * _over(scale, x)
        needs = ctx.needs_input_grad
        return (
            to_x.to(x.dtype) if needs[0] else None,
            to_weight.to(weight.dtype) if needs[1] else None,
            to_bias.to(weight.dtype if weight is not None else x.dtype) if needs[2] else None,
            None,
        )


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _others(x: Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [0, *range(2, x.dim())]


def _over(values: Tensor, x: Tensor) -> Tensor:
    """A value a channel, to be broadcast over `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _gathered(mine: Tensor) -> Tensor:
    """The rows of all processes."""
    rows = [torch.empty_like(mine) for _ in range(processes())]
    dist.all_gather(rows, mine)
    return torch.stack(rows)
