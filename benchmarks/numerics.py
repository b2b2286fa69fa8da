"""The gate that every candidate passes before it is timed: the bound of the runtime, the last image, float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.models import Choice, prune
from benchmarks.protocol import Wrong
from updp_rt.blocks import merge_model
from updp_rt.ops.tolerance import error_bound, largest_error
from updp_rt.runtime.judging import longest_sum

MERGE_BOUND = 1e-12  # relative, in float64: merging is exact


def require_right(found: Tensor, plain: Tensor, exact: Tensor, length: int) -> None:
    """Judge a result on its last elements, of which `exact` has as many.

    Args:
        plain: what torch's own operators give.
        exact: the same in float64.
        length: K, as `longest_sum` finds it.

    Raises:
        Wrong: it is off by more than the bound.
    """
    found, plain = found[-len(exact) :], plain[-len(exact) :]
    error, allowed = largest_error(found, exact, plain), error_bound(plain, exact, length)
    if not error <= allowed:  # a NaN is wrong too
        raise Wrong(f"its results are off by {error:.1e}, the bound is {allowed:.1e}")


def require_model(ready: Callable[[Tensor], Tensor], source: nn.Module, images: Tensor) -> None:
    """Judge a model that was made from `source` on the last image.

    Raises:
        Wrong: it disagrees with its source.
    """
    with torch.inference_mode(False), torch.no_grad():
        exact = copy.deepcopy(source).double()(images[-1:].double())
    require_right(ready(images), source(images), exact, longest_sum(source))


def require_merged(pruned: Tensor, merged: Tensor) -> None:
    """Judge a merge by float64 results of the pruned and the merged form.

    Raises:
        Wrong: they are not the same.
    """
    error = float((merged - pruned).abs().max() / pruned.abs().max())
    if not error <= MERGE_BOUND:  # a NaN is wrong too
        raise Wrong(f"the merge is off by {error:.1e} in float64")


def require_merge(model: nn.Module, choice: Choice | None, image: Tensor) -> None:
    """Judge a merged model against the pruned one; where nothing is merged nothing can be wrong.

    Raises:
        Wrong: it is not the same in float64.
    """
    if choice is not None:
        with torch.inference_mode(False), torch.no_grad():
            subnet, image = prune(copy.deepcopy(model).double(), choice), image.double()
            require_merged(subnet(image), merge_model(subnet, choice.forms)(image))
