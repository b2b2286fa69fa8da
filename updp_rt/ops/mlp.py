"""``mlp``: two linear layers with an activation between, a norm before and a residual, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import ACTIVATIONS, finish
from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.folding import fold_scale
from updp_rt.ops.layer_norm import FLOPS, check_norm, norm_magnitude
from updp_rt.ops.library import call, register
from updp_rt.ops.linear import LINEAR
from updp_rt.ops.norm_linear import NORM_LINEAR
from updp_rt.ops.operator import RowOperator, Shapes, Weights
from updp_rt.ops.parts import Part
from updp_rt.ops.problem import Problem


class Mlp(RowOperator):
    """``act(norm(x) @ w1.T + b1) @ w2.T + b2 + residual``: x ``[..., K]``, w1 ``[H, K]``, w2 ``[N, H]``.

    A norm's own weight `gamma` and bias `beta` fold into the first layer, a layer `scale` into the second.
    """

    name = "mlp"
    schema = (
        "(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? residual, str act, float eps, "
        "Tensor? scale=None, Tensor? gamma=None, Tensor? beta=None) -> Tensor"
    )
    inputs = ("x", "residual")
    weights = ("w1", "b1", "w2", "b2")
    folds = ("scale", "gamma", "beta")
    examples = (
        {"x": (17, 31), "w1": (45, 31), "b1": (45,), "w2": (23, 45), "b2": (23,), "residual": (17, 23)}
        | {"act": "gelu", "eps": 1e-5},
        {"x": (2, 5, 13), "w1": (3, 13), "b1": (3,), "w2": (1, 3), "b2": (1,), "act": "relu", "eps": 0.0},
        {"x": (11,), "w1": (7, 11), "w2": (5, 7), "act": "none", "eps": 1e-3},
    )

    def plain(
        self,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        residual: Tensor | None,
        act: str,
        eps: float,
    ) -> Tensor:
        if eps:
            x = F.layer_norm(x, x.shape[-1:], None, None, eps)
        return finish(F.linear(ACTIVATIONS[act](F.linear(x, w1, b1)), w2, b2), residual, "none")

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, w1, w2 = shapes["x"], shapes["w1"], shapes["w2"]
        check_norm(x, attributes["eps"])
        check_shape("w1", w1, (None, x[-1]))
        check_shape("b1", shapes["b1"], w1[:1])
        check_shape("w2", w2, (None, w1[0]))
        check_shape("b2", shapes["b2"], w2[:1])
        check_shape("residual", shapes["residual"], self.output_shape(shapes, attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["x"][:-1], shapes["w2"][0])

    def flops(self, problem: Problem) -> int:
        products = 2 * problem.x[0] * sum(math.prod(problem.shape(name)) for name in ("w1", "w2"))
        return products + (FLOPS * math.prod(problem.x) if problem["eps"] else 0)

    def sum_length(self, problem: Problem) -> int:
        return sum(problem.shape(name)[1] for name in ("w1", "w2"))

    def magnitude(self, *args: Any) -> Tensor:
        x, *others, eps = args
        return super().magnitude(norm_magnitude(x, None, None, eps) if eps else x, *others, 0.0)

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        (w1, b1, w2, b2), (scale, gamma, beta) = weights, folds
        first = NORM_LINEAR.fold((w1, b1), (gamma, beta))
        return *first, *((w2, b2) if scale is None else fold_scale(w2, b2, scale))

    def parts(self, problem: Problem) -> tuple[Part, ...]:
        act, eps = problem.attributes
        first = Part(NORM_LINEAR, ("w1", "b1"), (eps, act)) if eps else Part(LINEAR, ("w1", "b1"), (act,))
        return first, Part(LINEAR, ("w2", "b2"), ("none",))


MLP = register(Mlp())


def mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    residual: Tensor | None = None,
    act: str = "gelu",
    eps: float = 0.0,
) -> Tensor:
    """Two linear layers, an activation between: ``act(norm(x) @ w1.T + b1) @ w2.T + b2 + residual`` in one pass.

    Args:
        x: ``[..., K]``; dtypes as for `linear`.
        w1, b1: ``[H, K]``, ``[H]``.
        w2, b2: ``[N, H]``, ``[N]``.
        residual: ``[..., N]``.
        act: none, relu, relu6, gelu (erf) or silu.
        eps: of the norm, `layer_norm` without a weight and a bias; 0: there is none.

    Returns:
        ``[..., N]``, contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(MLP, x, w1, b1, w2, b2, residual, act, eps)
