"""What the processes of one training do together, as torchrun or accelerate launch start them; nothing in one alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BUCKET = 32 * 2**20  # values that are added up at once, so that copies stay small


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def added(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The sums of numbers over all processes, which call this together."""
    if processes() == 1:
        return [float(number) for number in numbers]
    total = torch.tensor(list(numbers), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    found: list[float] = total.tolist()
    return found


@torch.no_grad()
def start_alike(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if processes() == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        sent = tensor.detach().contiguous()
        dist.broadcast(sent, 0)
        tensor.copy_(sent)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], weight: float) -> None:
    """Turn gradients, added up over `weight` batches here, into their mean over the batches of all processes.

    In one piece once a step, after all of a step's losses: each may have passed through other parts of the model.
    Parameters that no process has a gradient of are left without one, as optimizers expect.
    """
    if processes() == 1:
        for parameter in parameters if weight != 1.0 else ():
            if parameter.grad is not None:
                parameter.grad /= weight
        return
    total, *used = added([weight, *(p.grad is not None for p in parameters)], parameters[0].device)
    for bucket in _buckets([p for p, times in zip(parameters, used, strict=True) if times]):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        dist.all_reduce(flat)
        flat /= total
        for parameter, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(mean.view(parameter.shape))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one dtype together, as many as fit."""
    bucket: list[nn.Parameter] = []
    for parameter in sorted(parameters, key=lambda p: str(p.dtype)):
        values = sum(p.numel() for p in bucket)
        if bucket and (bucket[0].dtype != parameter.dtype or values + parameter.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


@torch.no_grad()
def average_statistics(norms: Sequence[_BatchNorm], weights: Sequence[float] | None = None) -> list[float]:
    """Make running statistics their weighted mean over all processes; where all weights are 0 they stay.

    Returns:
        The sum of the weights of each norm.
    """
    weights = [1.0] * len(norms) if weights is None else weights
    if processes() == 1 or not norms:
        return list(weights)
    statistics = [_statistics(norm) for norm in norms]
    totals = added(weights, statistics[0][0].device)
    flat = torch.cat([part * weight for parts, weight in zip(statistics, weights, strict=True) for part in parts])
    dist.all_reduce(flat)
    for parts, total in zip(statistics, totals, strict=True):
        for part in parts:
            mean, flat = flat[: len(part)], flat[len(part) :]
            if total:
                part.copy_(mean / total)
    return totals


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def tracking(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms of a model that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
