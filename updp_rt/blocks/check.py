"""The two equalities this project stands on, for one model: λ = 0 is the timm model, λ = 1 is the merged model.

Both are asked of every block on the input it gets in a run of the whole model, and of the logits. Border pixels, where
a merge that ignores padding goes wrong, are reported apart from the interior.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._progress import steps
from updp_rt.blocks.inspect import architecture, form_label, model_input_size
from updp_rt.blocks.model import (
    make_progressive,
    merge_model,
    progressive_blocks,
    prunable_blocks,
    pruned_bodies,
    set_lambda,
)
from updp_rt.blocks.randomize import randomize

# Of one block: about 4500 units of float64's rounding.
FLOAT64_BOUND = 1e-12
# Errors at random add up to so much more in the worst draw than in one.
_UNLUCKY = 4
_ERRORS = (
    "lambda0_error",
    "lambda0_error_logits",
    "merge_error_interior",
    "merge_error_border",
    "merge_error_logits",
)


@dataclass(frozen=True)
class Check:
    """Largest relative errors of one merged form, each ``max |a - b| / max |b|`` over a block's output or the logits.

    `lambda0_error` and `lambda0_error_logits` hold λ = 0 against the timm model, the others λ = 1 against the merged
    model; `pruning_changes` is how far the pruned model is from the baseline, which says that the equalities are not
    of two idle models.
    """

    form: str
    lambda0_error: float
    lambda0_error_logits: float
    merge_error_interior: float
    merge_error_border: float
    merge_error_logits: float
    pruning_changes: float


@dataclass(frozen=True)
class Verdict:
    """All checks of a model, their largest errors, and whether they are within the bounds.

    Each block on its own input is held to `bound`. Rounding grows with the depth, so the logits are held to
    `bound_logits`: how far they move where every pruned block's output is off by `bound`.
    """

    model: str
    input_size: tuple[int, int, int]
    dtype: str
    pruned: list[str]
    bound: float
    bound_logits: float
    lambda0_error: float
    lambda0_error_logits: float
    merge_error_interior: float
    merge_error_border: float
    merge_error_logits: float
    passed: bool
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def check_model(
    model: nn.Module,
    *,
    prune: int | None = None,
    dtype: torch.dtype = torch.float64,
    input_size: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Verdict:
    """Check both equalities on a timm model with randomised statistics, for every pruned body and merged form.

    Args:
        model: a timm model of a known family; it is left untouched.
        prune: how many blocks, drawn by `seed`; None prunes all that can be.
        dtype: float64, or float32 with a bound wider by the ratio of their epsilons.
        input_size: ``(channels, height, width)``; the model's own by default.

    Raises:
        UnsupportedModelError: no known family, or no prunable block.
        ValueError: another dtype, or more blocks than can be pruned.
    """
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"the equalities are checked in float64 or float32, not {dtype}")
    names = prunable_blocks(model)
    if prune is not None and not 1 <= prune <= len(names):
        raise ValueError(f"cannot prune {prune} blocks: this model has {len(names)} that can be")
    chosen = names if prune is None else random.Random(seed).sample(names, prune)
    size = input_size or model_input_size(model)
    bodies = pruned_bodies(model)
    baseline = randomize(copy_model(model).eval().to(dtype), seed)
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    before = _run(baseline, chosen, images)
    bound = FLOAT64_BOUND * torch.finfo(dtype).eps / torch.finfo(torch.float64).eps
    moved = [_moved(baseline, chosen, images, before.logits, bound)]
    checks = []
    for body, forms in bodies.items():
        subnet = make_progressive(baseline, dict.fromkeys(chosen, body)).eval()
        for index, block in enumerate(progressive_blocks(subnet).values()):
            randomize(block.norms, seed + 1 + index)
        lambda0_error = _largest(
            _error(call.again(subnet), call.output) for call in steps(before.calls, f"checking λ = 0 of {body}")
        )
        lambda0_error_logits = _error(subnet(images), before.logits)
        set_lambda(subnet, 1.0)
        end = _run(subnet, chosen, images)
        moved.append(_moved(subnet, chosen, images, end.logits, bound))
        borders = [_border(subnet, call.name, call.output) for call in end.calls]
        for form in forms:
            merged = merge_model(subnet, dict.fromkeys(chosen, form))
            outputs = [call.again(merged) for call in steps(end.calls, f"checking λ = 1 of {body}, {form}")]
            found = list(zip(outputs, end.calls, borders, strict=True))
            checks.append(
                Check(
                    form=form_label(body, form, len(bodies)),
                    lambda0_error=lambda0_error,
                    lambda0_error_logits=lambda0_error_logits,
                    merge_error_interior=_largest(_error(y, call.output, ~border) for y, call, border in found),
                    merge_error_border=_largest(_error(y, call.output, border) for y, call, border in found),
                    merge_error_logits=_error(merged(images), end.logits),
                    pruning_changes=_error(end.logits, before.logits),
                )
            )
    bound_logits = _largest(moved)
    errors = {field: _largest(getattr(check, field) for check in checks) for field in _ERRORS}
    return Verdict(
        model=architecture(model),
        input_size=size,
        dtype=str(dtype).removeprefix("torch."),
        pruned=list(chosen),
        bound=bound,
        bound_logits=bound_logits,
        **errors,
        # Written so that a NaN fails.
        passed=all(error <= (bound_logits if "logits" in field else bound) for field, error in errors.items())
        and all(check.pruning_changes > bound for check in checks),
        checks=checks,
    )


class _Call(NamedTuple):
    """What one block got, and what it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    def again(self, model: nn.Module) -> Tensor:
        """What the block of this name in `model` gives for the same."""
        output: Tensor = model.get_submodule(self.name)(*self.args, **self.kwargs)
        return output


class _Run(NamedTuple):
    calls: list[_Call]
    logits: Tensor


def _run(model: nn.Module, names: list[str], images: Tensor) -> _Run:
    """One run of the whole model, and the calls of the named blocks in it."""
    calls: list[_Call] = []

    def keep(name: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        # What comes next may work in place.
        calls.append(_Call(name, args, kwargs, output.clone()))

    with _hooked(model, names, keep):
        return _Run(calls, model(images))


def _moved(model: nn.Module, names: list[str], images: Tensor, logits: Tensor, by: float) -> float:
    """How far the logits may be from `logits` where each named block's output is off by `by`, up or down at random."""
    generator = torch.Generator().manual_seed(0)

    def shift(name: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=generator, dtype=output.dtype) * 2 - 1
        return output + by * output.abs().max() * signs

    with _hooked(model, names, shift):
        return _UNLUCKY * _error(model(images), logits)


@contextmanager
def _hooked(model: nn.Module, names: list[str], hook: Callable[..., Tensor | None]) -> Iterator[None]:
    """`hook`, with the block's name before what torch gives a forward hook, after each call of the named blocks."""
    blocks = [(name, model.get_submodule(name)) for name in names]
    hooks = [block.register_forward_hook(partial(hook, name), with_kwargs=True) for name, block in blocks]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _error(found: Tensor, wanted: Tensor, where: Tensor | None = None) -> float:
    """``max |found - wanted| / max |wanted|``, the numerator over `where` alone; 0 where that is empty."""
    difference = (found - wanted).abs()
    if where is not None:
        difference = torch.where(where, difference, 0.0)
    return float(difference.max() / wanted.abs().max())


def _largest(errors: Iterable[float]) -> float:
    """The largest of some errors, NaN if any is; Python's `max` passes over a NaN."""
    return float(torch.tensor(list(errors), dtype=torch.float64).max())


def _border(model: nn.Module, name: str, output: Tensor) -> Tensor:
    """Which elements of a block's output padding reaches; of a transformer's, the patches at the image's edge."""
    block = progressive_blocks(model)[name]
    if output.dim() == 4:
        height, width = output.shape[2:]
        return _frame(height, width, block.border).expand_as(output)
    patch_embed: Any = model.get_submodule("patch_embed")
    rows, columns = patch_embed.grid_size
    edge = _frame(rows, columns, (1, 1)).flatten()
    prefix = output.shape[1] - edge.numel()  # class, distillation and register tokens have no place in the image
    return torch.cat([edge.new_zeros(prefix), edge])[None, :, None].expand_as(output)


def _frame(height: int, width: int, thickness: tuple[int, int]) -> Tensor:
    mask = torch.ones(height, width, dtype=torch.bool)
    top, left = thickness
    mask[top : max(top, height - top), left : max(left, width - left)] = False
    return mask
