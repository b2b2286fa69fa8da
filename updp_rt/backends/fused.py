"""How the project's own kernels, of whichever language, are prepared for a problem."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from updp_rt.backends.base import Kernel
from updp_rt.backends.problem import Problem, Weights


def prepare_fused(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int = 1) -> Kernel:
    """A kernel for `problem`, with its weights as the kernels take them.

    Args:
        kernels: a package that has the operators, and functions that pack their weights.
        weights: as of the problem; biases as these kernels read them.
        tile: the kernels' last argument.
        unit: elements in 16 bytes, where the kernel moves so many at once: every address is then made a multiple of
            them. 1: any will do.
    """
    return _PREPARE[problem.operator](kernels, problem, weights, tile, unit)


def _linear(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Kernel:
    weight, bias, act = placed(weights[0].contiguous(), unit), weights[1], problem.act

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        residual = None if other is None else _rows(other, unit)
        y = kernels.linear(_rows(x, unit), weight, bias, residual, act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return kernel


def _conv2d(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Kernel:
    packed, bias = placed(kernels.pack_conv_weight(weights[0]), unit), weights[1]
    act, g = problem.act, problem.geometry

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        residual = None if other is None else _image(other, unit)
        return kernels.conv2d(_image(x, unit), packed, bias, residual, act, g.stride, g.padding, tile)

    return kernel


def _depthwise_pointwise(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Kernel:
    w_dw, b_dw, w_pw, b_pw = weights
    taps = placed(kernels.pack_depthwise_weight(w_dw), unit)
    pointwise = placed(w_pw[:, :, 0, 0].contiguous(), unit)
    act, g = problem.act, problem.geometry

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        residual = None if other is None else _image(other, unit)
        return kernels.depthwise_pointwise(
            _image(x, unit), taps, b_dw, pointwise, b_pw, residual, act, g.stride, g.padding, tile
        )

    return kernel


def _dual_linear(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Kernel:
    w_x, w_a = (placed(weight.contiguous(), unit) for weight in weights[:2])
    bias, act = weights[2], problem.act

    def kernel(x: Tensor, a: Tensor | None) -> Tensor:
        assert a is not None
        y = kernels.dual_linear(_rows(x, unit), _rows(a, unit), w_x, w_a, bias, act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return kernel


_PREPARE = {
    "linear": _linear,
    "conv2d": _conv2d,
    "depthwise_pointwise": _depthwise_pointwise,
    "dual_linear": _dual_linear,
}


# Distance of rows from which kernels that move 16 bytes at once do not reach all rows of a tile.
_FAR = 2**22


def placed(tensor: Tensor, unit: int) -> Tensor:
    """`tensor` itself, or a copy of it on an address that is a multiple of 16 bytes where `unit` asks for one."""
    return tensor if unit == 1 or tensor.data_ptr() % 16 == 0 else tensor.clone()


def _rows(x: Tensor, unit: int) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    fit = rows.stride(1) == 1 and (unit == 1 or (rows.stride(0) % unit == 0 and rows.stride(0) < _FAR))
    return placed(rows, unit) if fit else rows.clone(memory_format=torch.contiguous_format)


def _image(x: Tensor, unit: int) -> Tensor:
    return placed(x.contiguous(memory_format=torch.channels_last), unit)
