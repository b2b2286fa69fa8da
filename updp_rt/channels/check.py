"""Whether two models compute the same, in the highest precision that they allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from updp_rt._copies import copy_model
from updp_rt.channels.errors import ChannelError, one_line
from updp_rt.channels.export import mask_model
from updp_rt.channels.inputs import Inputs, arguments, change, tensors
from updp_rt.channels.layout import Masks

# Rounding through any depth of model stays below; a wrong channel is far above.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_HIGHEST = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


@dataclass(frozen=True)
class Check:
    """The largest relative difference of two models' outputs, in which dtype, and multiply-accumulates of both."""

    error: float
    dtype: str
    macs: tuple[int, int]


def allows_float64(model: nn.Module, example: Inputs) -> bool:
    """Whether a model runs in float64, its own casts to other dtypes left out."""
    try:
        _run(_prepare(model, exact=True), example, exact=True)
    except Exception:  # whatever the model's own code raises
        return False
    return True


def check_equal(masked: nn.Module, pruned: nn.Module, example: Inputs, *, exact: bool = True) -> Check:
    """Compare both models' outputs on `example`.

    Args:
        exact: in float64, which the models must allow; otherwise in their own dtypes.

    Raises:
        ChannelError: they differ by more than rounding, what they give holds no tensor to compare, or the exported
            model does not run: its code holds numbers of channels that cannot be changed from outside.
    """
    try:
        found, narrow = _run(_prepare(pruned, exact), example, exact)
    except Exception as error:  # whatever the model's own code raises
        raise ChannelError(f"the exported model does not run: {type(error).__name__}: {one_line(error)}") from error
    wanted, whole = _run(_prepare(masked, exact), example, exact)
    if not wanted:
        raise ChannelError("the model's output holds no tensor, so an exported model could not be checked")
    shapes = [[tuple(tensor.shape) for tensor in each] for each in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise ChannelError(f"the exported model's output has shape {shapes[0]}, not {shapes[1]}")
    dtype = torch.float64 if exact else _coarsest([*masked.parameters(), *wanted])
    worst = max(map(_difference, found, wanted), key=lambda error: (math.isnan(error), error))
    if not worst <= _TOLERANCE[dtype]:
        raise ChannelError(f"the exported model differs from the masked one by {worst:.1e}, so it was not made")
    return Check(worst, str(dtype).removeprefix("torch."), (whole, narrow))


def output_changes(
    model: nn.Module, candidates: Sequence[Masks], batches: Iterable[Inputs], *, exact: bool = True
) -> list[float]:
    """By how much each of some masks changes a model's outputs on images: ``||masked - model|| / ||model||``."""
    source = _prepare(model, exact)
    masked = [mask_model(source, masks) for masks in candidates]
    changed, total = [0.0] * len(masked), 0.0
    for batch in batches:
        wanted, _ = _run(source, batch, exact)
        total += sum(float(want.double().square().sum()) for want in wanted)
        for index, each in enumerate(masked):
            pairs = zip(_run(each, batch, exact)[0], wanted, strict=True)
            changed[index] += sum(float((got.double() - want.double()).square().sum()) for got, want in pairs)
    return [math.sqrt(change / max(total, 1e-300)) for change in changed]


def _prepare(model: nn.Module, exact: bool) -> nn.Module:
    """A copy in eval mode, in float64 if that is allowed."""
    copied = copy_model(model).eval().requires_grad_(False)  # operations are counted only where nothing wants gradients
    return copied.double() if exact else copied


@torch.no_grad()
def _run(model: nn.Module, inputs: Inputs, exact: bool) -> tuple[list[Tensor], int]:
    """All tensors that a model gives, and its multiply-accumulates. Attention is computed as it is written."""
    lifting = _InFloat64() if exact else nullcontext()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, lifting:
        given = model(*arguments(change(inputs, _lift) if exact else inputs))
    return tensors(given), counter.get_total_flops() // 2


class _InFloat64(TorchDispatchMode):
    """Casts to float64 whatever a model casts to a lower precision, and tensors that it holds beside its parameters."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_lift, (args, kwargs or {}))
        return tree_map(_lift, func(*args, **kwargs))


def _lift(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _HIGHEST.get(value, value)
    return value.to(_HIGHEST[value.dtype]) if isinstance(value, Tensor) and value.dtype in _HIGHEST else value


def _coarsest(found: Iterable[Tensor]) -> torch.dtype:
    """The dtype of some tensors whose rounding is largest."""
    dtypes = {tensor.dtype for tensor in found} & _TOLERANCE.keys() or {torch.float32}
    return max(dtypes, key=_TOLERANCE.__getitem__)


def _difference(got: Tensor, want: Tensor) -> float:
    """Relative to the largest number wanted; NaN if any is."""
    if not want.numel():
        return 0.0
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got.to(wide), want.to(wide)
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))
