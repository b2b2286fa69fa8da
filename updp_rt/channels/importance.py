"""How much each input of a layer matters: four published measures, each from the layer's own weights or input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from updp_rt._copies import share_tensors
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.inputs import Inputs, arguments, count_images
from updp_rt.channels.trace import Trace

Scores = dict[str, NDArray[np.float64]]


def magnitude(weight: Tensor) -> Tensor:
    """``sum |W[:, i]|`` for every input ``i`` of ``[O, I, ...]`` (Li et al. 2017, arXiv 1608.08710)."""
    return weight.abs().transpose(0, 1).flatten(1).sum(1)


def lamp(weight: Tensor) -> Tensor:
    """Share of an input's squared weights in those of all inputs that have as much or more.

    ``s_i / sum of s_j over s_j >= s_i`` with ``s_i = ||W[:, i]||²``: the layer-adaptive magnitude of Lee et al. 2021
    (arXiv 2010.07611), of inputs instead of single weights. Within a layer it orders as the magnitude does; it is made
    to be compared between layers.
    """
    squares = weight.square().transpose(0, 1).flatten(1).sum(1)
    ordered, index = squares.sort()
    remaining = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[index] = ordered / remaining.clamp_min(torch.finfo(weight.dtype).tiny)
    return scores


def fpgm(weight: Tensor) -> Tensor:
    """``sum over j of ||W[:, i] - W[:, j]||``: small for inputs near the geometric median, which others can replace.

    He et al. 2019 (arXiv 1811.00250), of inputs instead of filters.
    """
    vectors = weight.transpose(0, 1).flatten(1)
    return torch.cdist(vectors, vectors).sum(1)


FROM_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"magnitude": magnitude, "lamp": lamp, "fpgm": fpgm}
MEASURES = (*FROM_WEIGHTS, "hrank")


@torch.no_grad()
def score_inputs(model: nn.Module, trace: Trace, measure: str, batches: Sequence[Inputs] = ()) -> Scores:
    """The measure of every input of every prunable consumer, by name, as float64 ``[in_channels]``.

    Made to be compared between layers: magnitude and FPGM are divided by their layer's mean, LAMP by the share that
    each of its inputs would have if all were alike, so that a layer's width counts only in what an input saves.

    Args:
        measure: one of `MEASURES`.
        batches: for ``hrank`` the images ``[N, C, H, W]`` on which ranks are taken.

    Raises:
        ChannelError: an unknown measure, or ``hrank`` without images.
    """
    check_measure(measure, batches)
    if measure == "hrank":
        found = _ranks(model, trace, batches)
    else:
        found = {}
        for name in trace.prunable:
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            scores = FROM_WEIGHTS[measure](weight.detach().double())
            unit = 1 / len(scores) if measure == "lamp" else scores.mean().clamp_min(1e-300)
            found[name] = scores / unit
    return {name: scores.cpu().numpy() for name, scores in found.items()}


def check_measure(measure: str, batches: Sequence[Inputs]) -> None:
    """Raise `ChannelError` for an unknown measure, or ``hrank`` without images."""
    if measure not in MEASURES:
        raise ChannelError(f"unknown importance {measure!r}: choose among {', '.join(MEASURES)}")
    if measure == "hrank" and not batches:
        raise ChannelError("hrank takes ranks of feature maps, so it needs images: give some of the training data")


def _ranks(model: nn.Module, trace: Trace, batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """Mean rank of every input's feature map (Lin et al. 2020, "HRank", arXiv 2002.10179).

    A map of one pixel, as after pooling, has rank 1 unless it is 0. Of tokens ``[N, T, C]`` the map is the column of T.
    """
    sums: dict[str, Tensor] = {}
    model = share_tensors(model).eval()
    for name, consumer in trace.prunable.items():
        axis = consumer.links[0].axis

        def add(_: nn.Module, args: tuple[Tensor, ...], *, name: str = name, axis: int = axis) -> None:
            maps = args[0].movedim(axis, 1) if trace.batched else args[0][None]
            if maps.dim() != 4:
                maps = maps.reshape(*maps.shape[:2], -1, 1)
            ranks = torch.linalg.matrix_rank(maps.float()).double().sum(0)
            sums[name] = sums.get(name, torch.zeros_like(ranks)) + ranks

        model.get_submodule(name).register_forward_pre_hook(add)
    for batch in batches:
        model(*arguments(batch))
    count = sum(count_images(batch, trace.batched) for batch in batches)
    return {name: total / count for name, total in sums.items()}
