"""The project's Triton kernels, one source for ROCm and CUDA; on the CPU only under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from updp_rt.backends.base import Backend, Kernel
from updp_rt.backends.problem import Problem, Weights, contiguous_biases


class TritonBackend(Backend):
    """Fused kernels with the tiles that `updp_rt.kernels.triton` has for the GPU; each tile is a candidate."""

    name = "triton"

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if importlib.util.find_spec("triton") is None:
            return False, "triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if problem.device == "cpu" and not interpreted:
            return False, "Triton kernels run on GPUs"
        if interpreted and problem.dtype == torch.bfloat16:
            return False, "Triton's interpreter computes bfloat16 products wrongly"
        if problem.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return False, f"no kernel for {problem.dtype}"
        if problem.operator == "attention" or (problem.operator == "conv2d" and problem.geometry.groups != 1):
            return False, "grouped convolutions and attention have no Triton kernel"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        from updp_rt.kernels.triton import architecture, tiles

        arch = architecture(torch.device(problem.device))
        return tuple(tile.name for tile in tiles(problem.operator, arch, problem.dtype))

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        from updp_rt.kernels.triton import architecture, tile

        arch = architecture(torch.device(problem.device))
        chosen = tile(problem.operator, arch, problem.dtype, config)
        return _PREPARE[problem.operator](problem, contiguous_biases(weights), chosen)


def _linear(problem: Problem, weights: Weights, tile: Any) -> Kernel:
    from updp_rt.kernels.triton import linear

    weight, bias, act = weights[0].contiguous(), weights[1], problem.act

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        y = linear(_rows(x), weight, bias, None if other is None else _rows(other), act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return kernel


def _conv2d(problem: Problem, weights: Weights, tile: Any) -> Kernel:
    from updp_rt.kernels.triton import conv2d, pack_conv_weight

    packed, bias, act, g = pack_conv_weight(weights[0]), weights[1], problem.act, problem.geometry

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        return conv2d(_image(x), packed, bias, None if other is None else _image(other), act, g.stride, g.padding, tile)

    return kernel


def _depthwise_pointwise(problem: Problem, weights: Weights, tile: Any) -> Kernel:
    from updp_rt.kernels.triton import depthwise_pointwise, pack_depthwise_weight

    w_dw, b_dw, w_pw, b_pw = weights
    taps, pointwise = pack_depthwise_weight(w_dw), w_pw[:, :, 0, 0].contiguous()
    act, g = problem.act, problem.geometry

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        residual = None if other is None else _image(other)
        return depthwise_pointwise(_image(x), taps, b_dw, pointwise, b_pw, residual, act, g.stride, g.padding, tile)

    return kernel


def _dual_linear(problem: Problem, weights: Weights, tile: Any) -> Kernel:
    from updp_rt.kernels.triton import dual_linear

    w_x, w_a, bias, act = weights[0].contiguous(), weights[1].contiguous(), weights[2], problem.act

    def kernel(x: Tensor, a: Tensor | None) -> Tensor:
        assert a is not None
        y = dual_linear(_rows(x), _rows(a), w_x, w_a, bias, act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return kernel


_PREPARE = {
    "linear": _linear,
    "conv2d": _conv2d,
    "depthwise_pointwise": _depthwise_pointwise,
    "dual_linear": _dual_linear,
}


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _image(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
