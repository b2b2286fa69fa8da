"""``inverted_residual``: a 1x1 convolution, a depthwise one and a 1x1 one, with a residual, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import ACTIVATIONS, finish
from updp_rt.ops.checks import Pair, Shape, check_shape, check_window, conv_shape
from updp_rt.ops.conv2d import CONV2D
from updp_rt.ops.depthwise_conv2d import DEPTHWISE_CONV2D
from updp_rt.ops.folding import fold_norm
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import ImageOperator, Shapes, Weights
from updp_rt.ops.parts import Part
from updp_rt.ops.problem import Problem

# Behind each of the three convolutions stands a BatchNorm.
_CONVOLUTIONS = ("pw", "dw", "pwl")
_NORM = ("mean", "var", "gamma", "beta", "batches")
_SAME = ((1, 1), (0, 0))


class InvertedResidual(ImageOperator):
    """``pwl(act(dw(act(pw(x))))) + residual``, with biases: 1x1 from C to E, kh x kw depthwise, 1x1 from E to O."""

    name = "inverted_residual"
    schema = (
        "(Tensor x, Tensor w_pw, Tensor? b_pw, Tensor w_dw, Tensor? b_dw, Tensor w_pwl, Tensor? b_pwl, "
        "Tensor? residual, str act, SymInt[2] stride, SymInt[2] padding, "
        + ", ".join(f"Tensor? {name}_{conv}=None" for conv in _CONVOLUTIONS for name in _NORM)
        + "".join(f", float eps_{conv}=0." for conv in _CONVOLUTIONS)
        + ") -> Tensor"
    )
    inputs = ("x", "residual")
    weights = ("w_pw", "b_pw", "w_dw", "b_dw", "w_pwl", "b_pwl")
    folds = (
        *(f"{name}_{conv}" for conv in _CONVOLUTIONS for name in _NORM),
        *(f"eps_{conv}" for conv in _CONVOLUTIONS),
    )
    examples = (
        {
            "x": (2, 11, 7, 9),
            "w_pw": (37, 11, 1, 1),
            "b_pw": (37,),
            "w_dw": (37, 1, 3, 3),
            "b_dw": (37,),
            "w_pwl": (13, 37, 1, 1),
            "b_pwl": (13,),
        }
        | {"residual": (2, 13, 7, 9), "act": "relu6", "stride": (1, 1), "padding": (1, 1)},
        {"x": (2, 5, 9, 7), "w_pw": (19, 5, 1, 1), "w_dw": (19, 1, 3, 5), "w_pwl": (8, 19, 1, 1)}
        | {"act": "silu", "stride": (2, 1), "padding": (1, 2)},
    )

    def plain(
        self,
        x: Tensor,
        w_pw: Tensor,
        b_pw: Tensor | None,
        w_dw: Tensor,
        b_dw: Tensor | None,
        w_pwl: Tensor,
        b_pwl: Tensor | None,
        residual: Tensor | None,
        act: str,
        stride: Pair,
        padding: Pair,
    ) -> Tensor:
        y = ACTIVATIONS[act](F.conv2d(x, w_pw, b_pw))
        y = ACTIVATIONS[act](F.conv2d(y, w_dw, b_dw, stride, padding, 1, w_dw.shape[0]))
        return finish(F.conv2d(y, w_pwl, b_pwl), residual, "none")

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, w_pw, w_dw, w_pwl = (shapes[name] for name in ("x", "w_pw", "w_dw", "w_pwl"))
        check_shape("x", x, (None, None, None, None))
        check_shape("w_pw", w_pw, (None, x[1], 1, 1))
        check_shape("b_pw", shapes["b_pw"], w_pw[:1])
        check_shape("w_dw", w_dw, (w_pw[0], 1, None, None))
        check_window(x, "w_dw", w_dw, attributes["stride"], attributes["padding"])
        check_shape("b_dw", shapes["b_dw"], w_pw[:1])
        check_shape("w_pwl", w_pwl, (None, w_pw[0], 1, 1))
        check_shape("b_pwl", shapes["b_pwl"], w_pwl[:1])
        check_shape("residual", shapes["residual"], self.output_shape(shapes, attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        kernel = (shapes["w_pwl"][0], *shapes["w_dw"][1:])
        return conv_shape(shapes["x"], kernel, attributes["stride"], attributes["padding"])

    def flops(self, problem: Problem) -> int:
        batch, _, height, width = problem.x
        of_input = batch * height * width * math.prod(problem.shape("w_pw"))
        batch, _, height, width = problem.output
        of_output = batch * height * width * sum(math.prod(problem.shape(name)) for name in ("w_dw", "w_pwl"))
        return 2 * (of_input + of_output)

    def sum_length(self, problem: Problem) -> int:
        return sum(math.prod(problem.shape(name)[1:]) for name in ("w_pw", "w_dw", "w_pwl"))

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        count = len(_NORM)
        found: list[Tensor | None] = []
        for i, eps in enumerate(folds[-len(_CONVOLUTIONS) :]):
            weight, bias = weights[2 * i : 2 * i + 2]
            mean, var, gamma, beta, batches = folds[i * count : (i + 1) * count]
            found += fold_norm(weight, bias, mean, var, gamma, beta, batches, None, eps)
        return tuple(found)

    def parts(self, problem: Problem) -> tuple[Part, ...]:
        act, stride, padding = problem.attributes
        return (
            Part(CONV2D, ("w_pw", "b_pw"), (act, *_SAME, 1)),
            Part(DEPTHWISE_CONV2D, ("w_dw", "b_dw"), (act, stride, padding)),
            Part(CONV2D, ("w_pwl", "b_pwl"), ("none", *_SAME, 1)),
        )


INVERTED_RESIDUAL = register(InvertedResidual())


def inverted_residual(
    x: Tensor,
    w_pw: Tensor,
    b_pw: Tensor | None,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pwl: Tensor,
    b_pwl: Tensor | None,
    residual: Tensor | None = None,
    act: str = "relu6",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
) -> Tensor:
    """MobileNetV2's block in one pass: ``pwl(act(dw(act(pw(x) + b_pw)) + b_dw)) + b_pwl + residual``.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        w_pw, b_pw: ``[E, C, 1, 1]``, ``[E]``: the 1x1 convolution that expands.
        w_dw, b_dw: ``[E, 1, kh, kw]``, ``[E]``: the depthwise one, which is padded with zeros.
        w_pwl, b_pwl: ``[O, E, 1, 1]``, ``[O]``: the 1x1 one that projects.
        residual: ``[N, O, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu, after the first two convolutions.
        stride, padding: of the depthwise convolution, as for `conv2d`.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(INVERTED_RESIDUAL, x, w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl, residual, act, stride, padding)
