"""Inputs that find mistakes which ordinary ones hide, made from those that a module really sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_SCALE = 2.0**12


def adversarial(
    args: tuple[Any, ...], run: Callable[..., Tensor], seed: int = 0
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield a name and arguments shaped like `args`, for each kind:

    - ``large``: the values seen, times the largest power of two up to 4096 at which `run` still gives finite results;
    - ``denormal``: the values seen, scaled until the largest is half of the smallest normal number;
    - ``constant``: all ones;
    - ``one-hot``: a single one in each sample, at a random place;
    - ``border``: the values seen on an image's outermost pixels, or in the first and last token; zero elsewhere.

    Args:
        args: a module's arguments; floating tensors of 2 dimensions or more, samples first, are changed.
        run: torch's own way of computing the module, in the dtype of `args`.
        seed: of the places of the ones.
    """
    scale = LARGEST_SCALE
    while scale > 1:
        large = _map(args, lambda x: x * scale)
        if bool(run(*large).isfinite().all()):
            yield "large", large
            break
        scale /= 2
    yield "denormal", _map(args, _denormal)
    yield "constant", _map(args, torch.ones_like)
    generator = torch.Generator().manual_seed(seed)
    yield "one-hot", _map(args, lambda x: _one_hot(x, generator))
    if any(_is_spatial(arg) for arg in args):
        yield "border", _map(args, _border)


def neighbours(args: tuple[Any, ...], seed: int = 0) -> tuple[Any, ...]:
    """`args` with each value of what `adversarial` changes moved by one unit in the last place, up or down."""
    generator = torch.Generator().manual_seed(seed)
    return _map(args, lambda x: _moved(x, generator))


@torch.no_grad()
def move_weights(module: nn.Module, seed: int = 0) -> None:
    """Move each weight likewise, in place: a norm that is folded into weights rounds them, for all pixels alike."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.copy_(_moved(parameter, generator))


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    up = torch.rand(x.shape, generator=generator).to(x.device) < 0.5
    return torch.nextafter(x, torch.where(up, torch.inf, -torch.inf).to(x.dtype))


def _map(args: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(
        change(arg) if isinstance(arg, Tensor) and arg.is_floating_point() and arg.dim() > 1 else arg for arg in args
    )


def _denormal(x: Tensor) -> Tensor:
    # In float64, where the quotient and its product cannot underflow on the way.
    scaled = x.double() / x.double().abs().max().clamp_min(1e-300)
    return (scaled * (torch.finfo(x.dtype).smallest_normal / 2)).to(x.dtype)


def _one_hot(x: Tensor, generator: torch.Generator) -> Tensor:
    result = torch.zeros_like(x)
    flat = torch.zeros(x.shape[0], x[0].numel())
    flat[torch.arange(len(flat)), torch.randint(flat.shape[1], (len(flat),), generator=generator)] = 1.0
    # copy_ keeps the layout of `x`, which decides the kernel.
    return result.copy_(flat.reshape(x.shape))


def _is_spatial(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.dim() in (3, 4)


def _border(x: Tensor) -> Tensor:
    if not _is_spatial(x):
        return x
    result = x.clone()
    if x.dim() == 4:
        result[:, :, 1:-1, 1:-1] = 0
    else:
        result[:, 1:-1] = 0
    return result
