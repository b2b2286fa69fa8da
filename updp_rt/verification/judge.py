"""How far a result is from float64, beside how far torch's own is: the figures of one case of a certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from updp_rt.ops.tolerance import error_bound, largest_error
from updp_rt.verification.certificate import Case, Logits

# Upper ends of the histogram's bins.
_EDGES = (0, 1, 2, 4, 8, 16)
BINS = ("0", "1", "2", "3-4", "5-8", "9-16", ">16")


def judge(inputs: str, found: Tensor, plain: Sequence[Tensor], exact: Tensor, length: int) -> Case:
    """Compare `found` with `exact` (float64), and `plain`, torch's own results in the same dtype, likewise.

    Args:
        inputs: what the inputs were, for the record.
        plain: the worst of them sets the bound.
        length: K, the longest sum behind one value.
    """
    if found.shape != exact.shape or found.dtype != plain[0].dtype:
        wrong = float("inf")
        return Case(
            inputs=inputs,
            error=wrong,
            rms=wrong,
            border_error=None,
            torch_error=0.0,
            torch_rms=0.0,
            bound=0.0,
            ulps=dict.fromkeys(BINS, 0),
        )
    return Case(
        inputs=inputs,
        error=largest_error(found, exact, *plain),
        rms=_rms(found, exact),
        border_error=_border_error(found, exact),
        torch_error=max(largest_error(one, exact, one) for one in plain),
        torch_rms=max(_rms(one, exact) for one in plain),
        # What is smaller than the smallest normal number may be flushed to zero.
        bound=max(error_bound(one, exact, length) for one in plain) + torch.finfo(found.dtype).smallest_normal,
        ulps=histogram(found, exact),
    )


def judge_logits(found: Tensor, plain: Tensor, exact: Tensor, length: int) -> Logits:
    """Compare outputs ``[N, classes]``: their errors, and their top-1 where errors within the bound cannot turn it."""
    bound = error_bound(plain, exact, length)
    top = exact.topk(2, dim=-1).values if exact.shape[-1] > 1 else exact
    numbers = plain.isfinite()
    decided = ((top[..., 0] - top[..., -1]) > 2 * bound) & numbers.all(-1)
    choice = found.argmax(-1)
    return Logits(
        samples=decided.numel(),
        error=largest_error(found, exact, plain) if numbers.any() else math.nan,  # nothing was compared
        torch_error=largest_error(plain, exact, plain),
        bound=bound,
        agree=int((choice == plain.argmax(-1)).sum()),
        decided=int(decided.sum()),
        disagree=int((decided & (choice != exact.argmax(-1))).sum()),
    )


def histogram(found: Tensor, exact: Tensor) -> dict[str, int]:
    """How many values of `found` are how many units in the last place from `exact` rounded to its dtype."""
    distance = (_ordered(found) - _ordered(exact.to(found.dtype))).abs()
    distance = torch.where(found.isnan() != exact.isnan(), torch.iinfo(torch.int64).max, distance)
    bins = torch.bucketize(distance.flatten(), torch.tensor(_EDGES, device=found.device))
    return dict(zip(BINS, torch.bincount(bins, minlength=len(BINS)).tolist(), strict=True))


def _ordered(x: Tensor) -> Tensor:
    """Integers in the order of the floating numbers, neighbours one apart, and both zeros 0."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]
    bits = x.contiguous().view(integer).to(torch.int64)
    return torch.where(bits < 0, torch.iinfo(integer).min - bits, bits)


def _rms(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).square().mean().sqrt())


def _border_error(found: Tensor, exact: Tensor) -> float | None:
    """The largest error on the outermost pixels of ``[N, C, H, W]``; None for what is no image."""
    if found.dim() != 4:
        return None
    interior = torch.zeros(found.shape[2:], dtype=torch.bool, device=found.device)
    interior[1:-1, 1:-1] = True
    return largest_error(found[:, :, ~interior], exact[:, :, ~interior])
