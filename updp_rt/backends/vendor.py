"""The vendor's convolution or matrix product (cuDNN, MIOpen, BLAS), then everything else in one pass in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.backends.base import IN_PLACE, Backend, Kernel
from updp_rt.backends.problem import Geometry, Problem, Weights

# Finishes a fresh result in place: act(y + bias + residual).
Epilogue = Callable[[Tensor, Tensor | None, Tensor | None, str], Tensor]


class VendorBackend(Backend):
    """Library calls and one epilogue: a Triton kernel on a GPU, torch's in-place operators on the CPU."""

    name = "vendor"

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if problem.operator == "attention":
            return False, "the reference calls the library's attention already"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        # cuDNN and cuBLASLt have ReLU in their own epilogues.
        own = problem.device == "cuda" and torch.version.hip is None and problem.act == "relu"
        linear = problem.operator == "linear" and not problem.residual and problem.weights[1] is not None
        if own and (problem.operator == "conv2d" or linear):
            return "epilogue", "library"
        mkl = problem.device == "cpu" and problem.dtype == torch.float32 and torch.backends.mkl.is_available()
        return ("epilogue", "packed") if mkl and problem.operator == "linear" else ("epilogue",)

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        if config == "library":
            return _library(problem, weights)
        finish = _epilogue(problem.device)
        if problem.operator == "linear":
            return _linear(problem, weights, finish, packed=config == "packed")
        if problem.operator == "conv2d":
            return _conv2d(problem.act, problem.residual, problem.geometry, weights, finish)
        if problem.operator == "depthwise_pointwise":
            w_dw, b_dw, w_pw, b_pw = weights
            g = problem.geometry
            first = _conv2d("none", False, Geometry(g.stride, g.padding, problem.x[1]), (w_dw, b_dw), finish)
            second = _conv2d(problem.act, problem.residual, Geometry(), (w_pw, b_pw), finish)
            return lambda x, other: second(first(x, None), other)
        return _dual_linear(problem.act, weights, finish)


def _epilogue(device: str) -> Epilogue:
    return _epilogue_triton if device == "cuda" else _epilogue_in_place


def _epilogue_triton(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    from updp_rt.kernels.triton import architecture, epilogue, tiles

    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else residual.contiguous()
    return epilogue(y, bias, residual, act, tiles("epilogue", architecture(y.device), y.dtype)[-1])


def _epilogue_in_place(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    if bias is not None:
        y.add_(bias[:, None, None] if y.dim() == 4 else bias)
    if residual is not None:
        y.add_(residual)
    return IN_PLACE[act](y)


def _linear(problem: Problem, weights: Weights, finish: Epilogue, *, packed: bool) -> Kernel:
    weight, bias = weights
    act = problem.act
    rows, bare = weight.shape[0], act == "none" and not problem.residual
    multiply = _mkl_product(problem, weight, bias) if packed else lambda x: F.linear(x, weight, bias)

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        y = multiply(x)  # the libraries add a bias for nothing
        if bare:
            return y
        flat = None if other is None else other.reshape(-1, rows)
        return finish(y.view(-1, rows), None, flat, act).view(y.shape)

    return kernel


def _mkl_product(problem: Problem, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """MKL's product with a weight in MKL's own layout, as torch's compiler has it for a number of rows known ahead."""
    rows = problem.x[0]
    weight = weight.contiguous()
    layout = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkl._mkl_linear(x.contiguous(), layout, weight, bias, rows)


def _conv2d(act: str, residual: bool, geometry: Geometry, weights: Weights, finish: Epilogue) -> Kernel:
    weight, bias = weights
    packed = weight.contiguous(memory_format=torch.channels_last)
    tail = (geometry.stride, geometry.padding, 1, geometry.groups)
    bare = act == "none" and not residual
    # On a GPU the library would add the bias in a pass of its own; the epilogue does it for nothing.
    first, second = (bias, None) if bare or weight.device.type == "cpu" else (None, bias)

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, packed, first, *tail).contiguous(memory_format=torch.channels_last)
        return y if bare else finish(y, second, other, act)

    return kernel


def _dual_linear(act: str, weights: Weights, finish: Epilogue) -> Kernel:
    w_x, w_a, bias = weights
    rows = w_x.shape[0]

    def kernel(x: Tensor, a: Tensor | None) -> Tensor:
        assert a is not None
        y = F.linear(x, w_x, bias).view(-1, rows)
        y.addmm_(a.reshape(-1, a.shape[-1]), w_a.t())  # accumulates into the first product
        return finish(y, None, None, act).view(*x.shape[:-1], rows)

    return kernel


def _library(problem: Problem, weights: Weights) -> Kernel:
    weight, bias = weights
    if problem.operator == "linear":

        def linear(x: Tensor, other: Tensor | None) -> Tensor:
            rows = x.reshape(-1, x.shape[-1])
            y = torch._addmm_activation(bias, rows, weight.t(), use_gelu=False)
            return y.view(*x.shape[:-1], weight.shape[0])

        return linear
    g = problem.geometry
    packed = weight.contiguous(memory_format=torch.channels_last)
    tail = (g.stride, g.padding, (1, 1), g.groups)

    def conv2d(x: Tensor, other: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if other is None:
            return torch.cudnn_convolution_relu(x, packed, bias, *tail)
        other = other.contiguous(memory_format=torch.channels_last)
        return torch.cudnn_convolution_add_relu(x, packed, other, 1.0, bias, *tail)

    return conv2d
