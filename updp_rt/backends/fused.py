"""How the project's own kernels, of whichever language, are prepared for a problem."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from updp_rt.backends.base import Prepared
from updp_rt.ops import (
    ADD_LAYER_NORM,
    ATTENTION,
    AVERAGE_POOL,
    CONV2D,
    CONV2D_MAX_POOL,
    DEPTHWISE_CONV2D,
    DEPTHWISE_POINTWISE,
    DUAL_LINEAR,
    INVERTED_RESIDUAL,
    LAYER_NORM,
    LINEAR,
    MAX_POOL,
    MLP,
    NORM_LINEAR,
    PREPEND_TOKENS,
    Problem,
    Weights,
)

if TYPE_CHECKING:
    from updp_rt.kernels.triton import Tile


def lacks_kernel(problem: Problem) -> str | None:
    """Why no kernel of the project's own runs `problem`, whatever the language; None: there is one."""
    from updp_rt.kernels import DTYPES
    from updp_rt.kernels.checks import HEAD_DEPTHS

    if problem.operator not in _PREPARE:
        return f"{problem.operator.name} has no kernel of the project's own"
    if problem.operator is CONV2D and problem["groups"] != 1:
        return "grouped convolutions have no kernel of the project's own"
    if problem.dtype not in DTYPES:
        return f"no kernel for {problem.dtype}"
    if problem.operator is CONV2D_MAX_POOL:
        return _why_no_stem(problem)
    if problem.operator is ATTENTION and head_depth(problem) not in HEAD_DEPTHS:
        return f"kernels of attention take heads of {', '.join(map(str, HEAD_DEPTHS))} values"
    return None


def _why_no_stem(problem: Problem) -> str | None:
    from updp_rt.kernels.checks import CONVOLUTION, POOL, STEM_ACTIVATIONS, STEM_CHANNELS

    (act, *geometry), channels = problem.attributes, problem.x[1]
    if channels != STEM_CHANNELS or (problem.shape("weight")[2:], *geometry) != (*CONVOLUTION, *POOL):
        return "a convolution and a pool have a kernel where they are those of a ResNet: 7x7 over 3 channels, then 3x3"
    return None if act in STEM_ACTIVATIONS else f"{act} may give values below 0, which kernels of a stem do not compare"


def fits(problem: Problem, block: Sequence[int]) -> bool:
    """Whether kernels of these block sizes take `problem`: attention's are each for heads of one depth, their last."""
    return problem.operator is not ATTENTION or block[-1] == head_depth(problem)


def has_triton_kernel(problem: Problem) -> bool:
    """Whether the operator has a kernel in Triton; some are in HIP alone."""
    from updp_rt.kernels.triton import OPERATORS

    return problem.operator.name in OPERATORS


def triton_tiles(problem: Problem, arch: str) -> tuple[Tile, ...]:
    """The tiles that Triton's kernels have on `arch` for `problem`; none where the operator has no such kernel."""
    from updp_rt.kernels.triton import tiles

    found = tiles(problem.operator.name, arch, problem.dtype) if has_triton_kernel(problem) else ()
    return tuple(tile for tile in found if fits(problem, (tile.block_m, tile.block_n, tile.block_k)))


def head_depth(problem: Problem) -> int:
    """How many values a head of attention's has."""
    return int(problem.output[-1] // problem["heads"])


def prepare_fused(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int = 1) -> Prepared:
    """A call for `problem`, with its weights as the kernels take them.

    Args:
        kernels: a package that has the operators.
        weights: as of the problem; biases as these kernels read them.
        tile: the kernels' last argument.
        unit: elements in 16 bytes, where the kernel moves so many at once: every address is then made a multiple of
            them. 1: any will do.
    """
    return _PREPARE[problem.operator](kernels, problem, weights, tile, unit)


def _linear(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    weight, bias, act = placed(weights[0].contiguous(), unit), weights[1], problem.act

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        y = kernels.linear(_rows(x, unit), weight, bias, _given(_rows, residual, unit), act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def _conv2d(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.packing import pack_conv_weight

    packed, bias = placed(pack_conv_weight(weights[0]), unit), weights[1]
    act, stride, padding, _ = problem.attributes

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        residual = _given(_image, residual, unit)
        return kernels.conv2d(_image(x, unit), packed, bias, residual, act, stride, padding, tile)

    return call


def _conv2d_max_pool(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    packed, bias, act = kernels.pack_conv2d_max_pool(weights[0], tile), weights[1], problem.act
    return lambda x: kernels.conv2d_max_pool(_image(x, unit), packed, bias, act, tile)


def _depthwise_conv2d(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.packing import pack_depthwise_weight

    packed, bias = placed(pack_depthwise_weight(weights[0]), unit), weights[1]

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        residual = _given(_image, residual, unit)
        return kernels.depthwise_conv2d(_image(x, unit), packed, bias, residual, *problem.attributes, tile)

    return call


def _depthwise_pointwise(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.packing import pack_depthwise_weight

    w_dw, b_dw, w_pw, b_pw = weights
    fixed = (placed(pack_depthwise_weight(w_dw), unit), b_dw, placed(w_pw[:, :, 0, 0].contiguous(), unit), b_pw)

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        residual = _given(_image, residual, unit)
        return kernels.depthwise_pointwise(_image(x, unit), *fixed, residual, *problem.attributes, tile)

    return call


def _dual_linear(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    w_x, w_a = (placed(weight.contiguous(), unit) for weight in weights[:2])
    bias, act = weights[2], problem.act

    def call(x: Tensor, a: Tensor) -> Tensor:
        y = kernels.dual_linear(_rows(x, unit), _rows(a, unit), w_x, w_a, bias, act, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def _layer_norm(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    return lambda x: kernels.layer_norm(_rows(x, unit), *weights, problem["eps"], tile).view(x.shape)


def _add_layer_norm(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    def call(x: Tensor, residual: Tensor) -> Tensor:
        y = kernels.add_layer_norm(_rows(x, unit), _rows(residual, unit), *weights, problem["eps"], tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def _norm_linear(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.packing import sum_weight

    weight, bias = placed(weights[0].contiguous(), unit), weights[1]
    sums = sum_weight(weight)

    def call(x: Tensor) -> Tensor:
        y = kernels.norm_linear(_rows(x, unit), weight, sums, bias, *problem.attributes, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def _prepend_tokens(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    prefix, position = (weight[0] for weight in weights)
    count = prefix.shape[0]
    # Rounded once, as the sum of the two is where torch adds them.
    table = placed(torch.cat([prefix + position[:count], position[count:]]), unit)
    return lambda x: kernels.prepend_tokens(placed(x.contiguous(), unit), table, tile)


def _attention(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    heads = problem["heads"]
    return lambda qkv: kernels.attention(placed(qkv.contiguous(), unit), heads, tile)


def _mlp(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.checks.mlp import MlpWeights

    w1, b1, w2, b2 = weights
    packed = kernels.pack_mlp(MlpWeights(w1.contiguous(), b1, w2.contiguous(), b2), tile)

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        y = kernels.mlp(_rows(x, unit), packed, _given(_rows, residual, unit), *problem.attributes, tile)
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def _inverted_residual(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    from updp_rt.kernels.checks.inverted_residual import InvertedResidualWeights
    from updp_rt.kernels.packing import pack_depthwise_weight

    w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl = weights
    first, last = (weight[:, :, 0, 0].contiguous() for weight in (w_pw, w_pwl))
    whole = InvertedResidualWeights(first, b_pw, pack_depthwise_weight(w_dw), b_dw, last, b_pwl)
    packed = kernels.pack_inverted_residual(whole, tile)

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        residual = _given(_image, residual, unit)
        return kernels.inverted_residual(_image(x, unit), packed, residual, *problem.attributes, tile)

    return call


def _max_pool(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    return lambda x: kernels.max_pool(_image(x, unit), *problem.attributes, tile)


def _average_pool(kernels: ModuleType, problem: Problem, weights: Weights, tile: Any, unit: int) -> Prepared:
    return lambda x: kernels.average_pool(_image(x, unit), tile)


_PREPARE = {
    LINEAR: _linear,
    CONV2D: _conv2d,
    CONV2D_MAX_POOL: _conv2d_max_pool,
    DEPTHWISE_CONV2D: _depthwise_conv2d,
    DEPTHWISE_POINTWISE: _depthwise_pointwise,
    DUAL_LINEAR: _dual_linear,
    LAYER_NORM: _layer_norm,
    ADD_LAYER_NORM: _add_layer_norm,
    NORM_LINEAR: _norm_linear,
    PREPEND_TOKENS: _prepend_tokens,
    ATTENTION: _attention,
    MLP: _mlp,
    INVERTED_RESIDUAL: _inverted_residual,
    MAX_POOL: _max_pool,
    AVERAGE_POOL: _average_pool,
}


def placed(tensor: Tensor, unit: int) -> Tensor:
    """`tensor` itself, or a copy of it on an address that is a multiple of 16 bytes where `unit` asks for one."""
    return tensor if unit == 1 or tensor.data_ptr() % 16 == 0 else tensor.clone()


def _given(change: Any, tensor: Tensor | None, unit: int) -> Any:
    return None if tensor is None else change(tensor, unit)


def _rows(x: Tensor, unit: int) -> Tensor:
    from updp_rt.kernels.checks import FAR

    rows = x.reshape(-1, x.shape[-1])
    fit = rows.stride(1) == 1 and (unit == 1 or (rows.stride(0) % unit == 0 and rows.stride(0) < FAR))
    return placed(rows, unit) if fit else rows.clone(memory_format=torch.contiguous_format)


def _image(x: Tensor, unit: int) -> Tensor:
    return placed(x.contiguous(memory_format=torch.channels_last), unit)
