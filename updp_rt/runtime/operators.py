"""``torch.ops.updp_rt.*`` on the CPU and on GPUs: the dispatched kernels, weights packed once per weight tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from updp_rt.backends import Geometry, Weights
from updp_rt.ops.reference import Pair
from updp_rt.runtime.site import Site
from updp_rt.runtime.sources import GivenSource, NoSource

_sites: Any = WeakTensorKeyDictionary()  # first weight -> sites of the calls it was given to


def _site(operator: str, weights: Weights, act: str, geometry: Geometry) -> Site:
    calls = _sites.setdefault(weights[0], {})
    key = (operator, act, geometry, tuple(id(w) for w in weights))
    site = calls.get(key)
    if site is None or not site.source.holds(weights):  # another tensor may have taken a dead one's id
        site = calls[key] = Site(operator, GivenSource(weights), act, geometry)
    return site


def _pair(sizes: Sequence[int]) -> Pair:
    return sizes[0], sizes[1]  # hashable, which torch's lists are not


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    return _site("linear", (weight, bias), act, Geometry())(x, residual)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
    groups: int,
) -> Tensor:
    return _site("conv2d", (weight, bias), act, Geometry(_pair(stride), _pair(padding), groups))(x, residual)


def _depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Tensor:
    geometry = Geometry(_pair(stride), _pair(padding), x.shape[1])
    return _site("depthwise_pointwise", (w_dw, b_dw, w_pw, b_pw), act, geometry)(x, residual)


def _dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return _site("dual_linear", (w_x, w_a, bias), act, Geometry())(x, a)


_attention_sites: dict[int, Site] = {}


def _attention(qkv: Tensor, heads: int) -> Tensor:
    site = _attention_sites.get(heads)
    if site is None:
        site = _attention_sites[heads] = Site("attention", NoSource(), geometry=Geometry(groups=heads))
    return site(qkv)


_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "attention": _attention,
    "linear": _linear,
    "conv2d": _conv2d,
    "depthwise_pointwise": _depthwise_pointwise,
    "dual_linear": _dual_linear,
}
for _name, _run in _IMPLEMENTATIONS.items():
    for _device in ("cpu", "cuda"):
        torch.library.impl(f"updp_rt::{_name}", _device, _run)
