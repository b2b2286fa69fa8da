"""The two equalities this project stands on, for one model: λ = 0 is the timm model, λ = 1 is the merged model.

Both are asked of every block's output in a run of the whole model, and of the logits; border pixels, where a merge
that ignores padding goes wrong, are reported apart from the interior.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.blocks import (
    make_progressive,
    merge_model,
    model_input_size,
    progressive_blocks,
    prunable_blocks,
    pruned_bodies,
    set_lambda,
)
from updp_rt.blocks.inspect import architecture, form_label
from updp_rt.verification.randomize import randomize

FLOAT64_BOUND = 1e-12


@dataclass(frozen=True)
class Check:
    """Largest relative errors of one merged form, each ``max |a - b| / max |b|`` over a block's output.

    `lambda0_error` holds λ = 0 against the timm model, the others λ = 1 against the merged model; `pruning_changes` is
    how far the pruned model is from the baseline, which says that the equalities are not of two idle models.
    """

    form: str
    lambda0_error: float
    merge_error_interior: float
    merge_error_border: float
    merge_error_logits: float
    pruning_changes: float


@dataclass(frozen=True)
class Verdict:
    """All checks of a model, their largest errors, and whether they are within the bound."""

    model: str
    input_size: tuple[int, int, int]
    dtype: str
    pruned: list[str]
    bound: float
    lambda0_error: float
    merge_error_interior: float
    merge_error_border: float
    merge_error_logits: float
    passed: bool
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def verify_model(
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
    baseline = randomize(copy.deepcopy(model).eval().to(dtype), seed)
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    expected = _outputs(baseline, chosen, images)
    checks = []
    for body, forms in bodies.items():
        subnet = make_progressive(baseline, dict.fromkeys(chosen, body)).eval()
        for index, block in enumerate(progressive_blocks(subnet).values()):
            randomize(block.norms, seed + 1 + index)
        start = _outputs(subnet, chosen, images)
        set_lambda(subnet, 1.0)
        end = _outputs(subnet, chosen, images)
        for form in forms:
            merged = _outputs(merge_model(subnet, dict.fromkeys(chosen, form)), chosen, images)
            masks = {name: _border(subnet, name, end[name]) for name in chosen}
            checks.append(
                Check(
                    form=form_label(body, form, len(bodies)),
                    lambda0_error=_largest(_error(start[key], expected[key]) for key in expected),
                    merge_error_interior=_largest(_error(merged[n], end[n], ~masks[n]) for n in chosen),
                    merge_error_border=_largest(_error(merged[n], end[n], masks[n]) for n in chosen),
                    merge_error_logits=_error(merged["logits"], end["logits"]),
                    pruning_changes=_error(end["logits"], expected["logits"]),
                )
            )
    bound = FLOAT64_BOUND * torch.finfo(dtype).eps / torch.finfo(torch.float64).eps
    errors = ("lambda0_error", "merge_error_interior", "merge_error_border", "merge_error_logits")
    largest = {error: _largest(getattr(check, error) for check in checks) for error in errors}
    return Verdict(
        model=architecture(model),
        input_size=size,
        dtype=str(dtype).removeprefix("torch."),
        pruned=list(chosen),
        bound=bound,
        **largest,
        # Written so that a NaN fails.
        passed=all(error <= bound for error in largest.values()) and all(c.pruning_changes > bound for c in checks),
        checks=checks,
    )


def _outputs(model: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """The logits, and the output of each named block, of one run of the whole model."""
    found: dict[str, Tensor] = {}
    with _recording(model, names, found):
        found["logits"] = model(images)
    return found


@contextmanager
def _recording(model: nn.Module, names: list[str], found: dict[str, Tensor]) -> Iterator[None]:

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> None:
        found[name] = output.clone()

    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
