"""Whole models beside their source in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from updp_rt._copies import copy_model
from updp_rt.verification import Logits, judge_logits


class Judge:
    """Compares whole models with their source in float64, on the first and the last of some images.

    Args:
        source: the model as torch runs it.
    """

    @torch.no_grad()
    def __init__(self, source: nn.Module, inputs: Tensor) -> None:
        self._inputs, self._length = inputs, longest_sum(source)
        self._plain = outputs_of(source, ends(inputs))
        self._exact, _ = exact_outputs(source, ends(inputs), self._plain)

    @torch.no_grad()
    def __call__(self, run: Callable[[Tensor], Any]) -> Logits:
        """Judge what `run` gives for all the images."""
        return judge_outputs([ends(y) for y in outputs_of(run, self._inputs)], self._plain, self._exact, self._length)


def longest_sum(model: nn.Module) -> int:
    """K: the most products that one element of any convolution's or linear layer's result sums."""
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return max((layer.weight[0].numel() for layer in layers), default=1)


def outputs_of(model: Callable[[Tensor], Any], inputs: Tensor) -> list[Tensor]:
    """All floating tensors that `model` gives: one, or those of a list of features or a dictionary."""
    found = [torch.atleast_1d(leaf) for leaf in tree_leaves(model(inputs)) if is_floating(leaf)]
    if not found:
        raise ValueError(
            f"this {type(model).__name__} gives no floating numbers to compare: verify what gives its logits"
        )
    return found


def judge_outputs(found: list[Tensor], plain: list[Tensor], exact: list[Tensor], length: int) -> Logits:
    """Of several outputs the one that fails, or else is nearest to its bound."""
    judged = [judge_logits(*each, length) for each in zip(found, plain, exact, strict=True)]
    return max(judged, key=lambda one: (not one.passed, one.error / (one.bound or 1.0)))


def exact_outputs(merged: nn.Module, inputs: Tensor, plain: list[Tensor]) -> tuple[list[Tensor], str]:
    """The outputs in float64, or in the highest precision that the model allows, and its name.

    A model that casts inside, as with ``x.float()``, refuses float64 or computes in less all the same.
    """
    for dtype in (torch.float64, torch.float32):
        try:
            exact = outputs_of(copy_model(merged).to(dtype), inputs.to(dtype))
        except (RuntimeError, TypeError, ValueError):
            continue
        if all(one.dtype == dtype for one in exact):
            return [one.double() for one in exact], short_name(dtype)
    return [one.double() for one in plain], short_name(plain[0].dtype)


def ends(x: Tensor) -> Tensor:
    """The first and the last sample of a batch."""
    return x if len(x) < 3 or x.dim() < 2 else x[[0, -1]]


def is_floating(value: Any) -> bool:
    """Whether it is a tensor of floating numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def short_name(dtype: torch.dtype) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
