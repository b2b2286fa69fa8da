"""The vendor's convolution or matrix product (cuDNN, MIOpen, BLAS), then everything else in one pass in place."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.backends.base import IN_PLACE, Backend, Prepared
from updp_rt.backends.fused import placed
from updp_rt.ops import (
    AVERAGE_POOL,
    CONV2D,
    DEPTHWISE_CONV2D,
    DEPTHWISE_POINTWISE,
    DUAL_LINEAR,
    LINEAR,
    MAX_POOL,
    NORM_LINEAR,
    Problem,
    Weights,
)
from updp_rt.ops.checks import Pair

# Finishes a fresh result in place: act(y + bias + residual).
Epilogue = Callable[[Tensor, Tensor | None, Tensor | None, str], Tensor]

# On HIP, what a convolution is computed in, as the name of a config begins. Without the variable torch copies images in
# channels_last to the other layout for MIOpen, and the weights with them, at each call.
_LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
MIOPEN_NHWC = "PYTORCH_MIOPEN_SUGGEST_NHWC"
_miopen_nhwc = threading.Lock()

_CONVOLUTIONS = (CONV2D, DEPTHWISE_CONV2D)
_POOLS = (MAX_POOL, AVERAGE_POOL)


class VendorBackend(Backend):
    """Library calls and one epilogue: a kernel of the project's own on a GPU, torch's in-place operators on the CPU."""

    name = "vendor"
    sources = (
        "ops/*.py",
        "backends/base.py",
        "backends/fused.py",
        "backends/vendor.py",
        "kernels/*.py",
        "kernels/checks/*.py",
        "kernels/triton/epilogue.py",
        "kernels/triton/gemm.py",
        "kernels/triton/activation.py",
        "kernels/triton/launch.py",
        "kernels/triton/tiles.py",
        "kernels/triton/tile_tables.py",
        "kernels/hip/*.py",
        "kernels/hip/*.h",
        "kernels/hip/epilogue.hip",
    )

    def supports(self, problem: Problem) -> tuple[bool, str]:
        followed = (LINEAR, *_CONVOLUTIONS, DEPTHWISE_POINTWISE, DUAL_LINEAR, NORM_LINEAR)
        if problem.operator not in (*followed, *_POOLS):
            return False, f"no library call followed by one epilogue makes {problem.operator.name}"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        if problem.operator in _POOLS:
            return ("",)
        configs = tuple(_epilogues(problem))
        if problem.device == "cuda" and torch.version.hip and problem.operator in (*_CONVOLUTIONS, DEPTHWISE_POINTWISE):
            configs = tuple(f"{layout}-{name}" for name in configs for layout in _LAYOUTS)
        plain_linear = problem.operator is LINEAR and not problem.residual and problem.has("bias")
        # cuDNN and cuBLASLt have ReLU in their own epilogues.
        own = problem.device == "cuda" and torch.version.hip is None and problem.act == "relu"
        if own and (problem.operator in _CONVOLUTIONS or plain_linear):
            return *configs, "library"
        mkl = problem.device == "cpu" and problem.dtype == torch.float32 and torch.backends.mkl.is_available()
        return (*configs, "packed") if mkl and problem.operator is LINEAR else configs

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        if problem.operator in _POOLS:  # nothing follows the library's own
            return lambda x: problem.operator.run_plain(x, *problem.attributes)
        if config == "library":
            return (_library_linear if problem.operator is LINEAR else _library_conv2d)(problem, weights)
        layout, _, name = config.partition("-")
        layout, name = (layout, name) if layout in _LAYOUTS else ("", config)
        finish = _epilogues(problem)["epilogue" if name == "packed" else name]
        if problem.operator is LINEAR:
            return _linear(problem, weights, finish, packed=config == "packed")
        if problem.operator in (*_CONVOLUTIONS, DEPTHWISE_POINTWISE):
            return (_depthwise_pointwise if problem.operator is DEPTHWISE_POINTWISE else _one_convolution)(
                problem, weights, finish, layout
            )
        return (_norm_linear if problem.operator is NORM_LINEAR else _dual_linear)(problem, weights, finish)


def _geometry(problem: Problem) -> tuple[str, Pair, Pair, int]:
    """Activation, stride, padding and groups of a convolution."""
    act, stride, padding, *groups = problem.attributes
    return act, stride, padding, groups[0] if groups else problem.x[1]


def _epilogues(problem: Problem) -> dict[str, Epilogue]:
    """By the name of a config, what can finish a result on the device of `problem`."""
    found: dict[str, Epilogue] = {"epilogue": _epilogue_in_place}
    if problem.device == "cuda" and importlib.util.find_spec("triton") is not None:
        found["epilogue"] = _epilogue_triton
    if _hip_epilogues(problem.device, problem.dtype):
        found["hip-epilogue"] = _epilogue_hip
    return found


def _hip_epilogues(device: str, dtype: torch.dtype) -> Any:
    """HIP's kernels for a result with channels of any number, where they run."""
    from updp_rt.kernels import DTYPES
    from updp_rt.kernels.hip import MissingObjectsError, device_of

    if dtype not in DTYPES or importlib.util.find_spec("updp_rt._launcher") is None:
        return ()
    try:
        return device_of(torch.device(device)).objects.kernels("epilogue", dtype, aligned=False)
    except (ValueError, MissingObjectsError):
        return ()


def _epilogue_hip(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    from updp_rt.kernels.hip import device_of, epilogue

    unit = 16 // y.itemsize
    aligned = y.shape[1] % unit == 0
    kernel = device_of(y.device).objects.kernels("epilogue", y.dtype, aligned)[-1]
    bias = None if bias is None else placed(bias.float().contiguous(), unit)
    residual = None if residual is None else placed(_like(residual, y), unit)
    return epilogue(y, bias, residual, act, kernel)


def _epilogue_triton(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    from updp_rt.kernels.architecture import architecture
    from updp_rt.kernels.triton import epilogue, tiles

    residual = None if residual is None else _like(residual, y)
    return epilogue(y, bias, residual, act, tiles("epilogue", architecture(y.device), y.dtype)[-1])


def _like(residual: Tensor, y: Tensor) -> Tensor:
    return residual.contiguous(memory_format=torch.channels_last if y.dim() == 4 else torch.contiguous_format)


def _epilogue_in_place(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
    if bias is not None:
        y.add_(bias[:, None, None] if y.dim() == 4 else bias)
    if residual is not None:
        y.add_(residual)
    return IN_PLACE[act](y)


def _linear(problem: Problem, weights: Weights, finish: Epilogue, *, packed: bool) -> Prepared:
    weight, bias = weights
    act = problem.act
    rows, bare = weight.shape[0], act == "none" and not problem.residual
    multiply = _mkl_product(problem, weight, bias) if packed else lambda x: F.linear(x, weight, bias)

    def call(x: Tensor, other: Tensor | None) -> Tensor:
        y = multiply(x)  # the libraries add a bias for nothing
        if bare:
            return y
        flat = None if other is None else other.reshape(-1, rows)
        return finish(y.view(-1, rows), None, flat, act).view(y.shape)

    return call


def _mkl_product(problem: Problem, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """MKL's product with a weight in MKL's own layout, as torch's compiler has it for a number of rows known ahead."""
    rows = problem.x[0]
    weight = weight.contiguous()
    layout = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkl._mkl_linear(x.contiguous(), layout, weight, bias, rows)


def _norm_linear(problem: Problem, weights: Weights, finish: Epilogue) -> Prepared:
    linear, eps = _linear(problem, weights, finish, packed=False), problem["eps"]
    return lambda x: linear(F.layer_norm(x, x.shape[-1:], None, None, eps), None)


def _one_convolution(problem: Problem, weights: Weights, finish: Epilogue, layout: str) -> Prepared:
    act, stride, padding, groups = _geometry(problem)
    return _conv2d(act, problem.residual, weights, finish, stride, padding, groups, layout)


def _depthwise_pointwise(problem: Problem, weights: Weights, finish: Epilogue, layout: str) -> Prepared:
    w_dw, b_dw, w_pw, b_pw = weights
    act, stride, padding = problem.attributes
    first = _conv2d("none", False, (w_dw, b_dw), finish, stride, padding, problem.x[1], layout, between=True)
    second = _conv2d(act, problem.residual, (w_pw, b_pw), finish, layout=layout)
    return lambda x, other: second(first(x, None), other)


def _conv2d(
    act: str,
    residual: bool,
    weights: Weights,
    finish: Epilogue,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
    layout: str = "",
    between: bool = False,
) -> Prepared:
    """A convolution in `layout`, one of `_LAYOUTS` or torch's choice; its result is channels_last, unless `between`."""
    weight, bias = weights
    computed = _LAYOUTS.get(layout, torch.channels_last)
    given = computed if between else torch.channels_last
    convolve = _conv2d_nhwc if layout == "nhwc" else F.conv2d
    packed = weight.contiguous(memory_format=computed)
    tail = (stride, padding, 1, groups)
    bare = act == "none" and not residual
    # On a GPU the library would add the bias in a pass of its own; the epilogue does it for nothing.
    first, second = (bias, None) if bare or weight.device.type == "cpu" else (None, bias)

    def call(x: Tensor, other: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=computed)
        y = convolve(x, packed, first, *tail).contiguous(memory_format=given)
        return y if bare else finish(y, second, other, act)

    return call


def _conv2d_nhwc(*args: Any) -> Tensor:
    """torch's convolution, with MIOpen told to take channels_last as it is."""
    with _miopen_nhwc:  # the variable is the whole process's
        before = os.environ.get(MIOPEN_NHWC)
        os.environ[MIOPEN_NHWC] = "1"
        try:
            return F.conv2d(*args)
        finally:
            if before is None:
                del os.environ[MIOPEN_NHWC]
            else:
                os.environ[MIOPEN_NHWC] = before


def _dual_linear(problem: Problem, weights: Weights, finish: Epilogue) -> Prepared:
    w_x, w_a, bias = weights
    act = problem.act
    rows = w_x.shape[0]

    def call(x: Tensor, a: Tensor | None) -> Tensor:
        assert a is not None
        y = F.linear(x, w_x, bias).view(-1, rows)
        y.addmm_(a.reshape(-1, a.shape[-1]), w_a.t())  # accumulates into the first product
        return finish(y, None, None, act).view(*x.shape[:-1], rows)

    return call


def _library_linear(problem: Problem, weights: Weights) -> Prepared:
    weight, bias = weights

    def call(x: Tensor, other: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = torch._addmm_activation(bias, rows, weight.t(), use_gelu=False)
        return y.view(*x.shape[:-1], weight.shape[0])

    return call


def _library_conv2d(problem: Problem, weights: Weights) -> Prepared:
    weight, bias = weights
    _, stride, padding, groups = _geometry(problem)
    packed = weight.contiguous(memory_format=torch.channels_last)
    tail = (stride, padding, (1, 1), groups)

    def call(x: Tensor, other: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if other is None:
            return torch.cudnn_convolution_relu(x, packed, bias, *tail)
        other = other.contiguous(memory_format=torch.channels_last)
        return torch.cudnn_convolution_add_relu(x, packed, other, 1.0, bias, *tail)

    return call
