"""The operators on HIP kernels: arguments checked, a grid laid over the result, one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from updp_rt.ops.activations import ACTIVATIONS

from ..checks import (
    FAR,
    check,
    check_conv2d,
    check_depthwise_pointwise,
    check_dual_linear,
    check_epilogue,
    check_linear,
)
from .device import device_of
from .manifest import HipKernel

_ACTIVATIONS = tuple(ACTIVATIONS)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, kernel: HipKernel
) -> Tensor:
    """``act(x @ weight.T + bias + residual)``, accumulated in float32.

    Args:
        x: ``[M, K]``, float32, float16 or bfloat16; rows contiguous, any distance apart.
        weight: ``[N, K]`` contiguous, of x's dtype.
        bias: ``[N]`` float32, or None.
        residual: ``[M, N]`` of x's dtype, rows contiguous, any distance apart; or None.
        act: none, relu, relu6, gelu (exact) or silu.
        kernel: one of ``load(arch).kernels("linear", ...)``.

    Returns:
        ``[M, N]`` contiguous, of x's dtype.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit the operator or the kernel.
    """
    check_linear(x, weight, bias, residual, act)
    m, k, n = x.shape[0], x.shape[-1], weight.shape[0]
    check(k > 0, "x has no columns")
    stride_residual = n if residual is None else residual.stride(0)
    _check_kernel(kernel, "linear", x, (bias,), (x, weight, residual), (k, n, x.stride(0), stride_residual))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k, x.stride(0), stride_residual)
        _launch(kernel, _tiles(kernel, m, n), (x, weight, bias, residual, y, *sizes, _ACTIVATIONS.index(act)))
    return y


def dual_linear(
    x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str, kernel: HipKernel
) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)``, accumulated in float32 without a rounding between the two.

    Args:
        x, a: ``[M, KX]`` and ``[M, KA]``, of one dtype; rows contiguous, any distance apart.
        w_x, w_a: ``[N, KX]`` and ``[N, KA]`` contiguous, of x's dtype.
        bias: ``[N]`` float32, or None.
        act: none, relu, relu6, gelu (exact) or silu.
        kernel: one of ``load(arch).kernels("dual_linear", ...)``.

    Returns:
        ``[M, N]`` contiguous, of x's dtype.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit the operator or the kernel.
    """
    check_dual_linear(x, a, w_x, w_a, bias, act)
    m, k_x, k_a, n = x.shape[0], x.shape[-1], a.shape[-1], w_x.shape[0]
    check(k_x > 0 and k_a > 0, "x and a must have columns")
    _check_kernel(kernel, "dual_linear", x, (bias,), (x, a, w_x, w_a), (k_x, k_a, n, x.stride(0), a.stride(0)))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k_x, k_a, x.stride(0), a.stride(0))
        _launch(kernel, _tiles(kernel, m, n), (x, a, w_x, w_a, bias, y, *sizes, _ACTIVATIONS.index(act)))
    return y


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernel: HipKernel,
) -> Tensor:
    """``act(conv2d(x, weight, bias, stride, padding) + residual)``, accumulated in float32.

    Args:
        x: ``[N, I, H, W]`` in channels-last memory, float32, float16 or bfloat16.
        weight: ``[O, KH, KW, I]`` contiguous (`pack_conv_weight`), of x's dtype. Groups and dilation are 1.
        bias: ``[O]`` float32, or None.
        residual: ``[N, O, OH, OW]`` in channels-last memory, of x's dtype, or None.
        act: none, relu, relu6, gelu (exact) or silu.
        stride, padding: ``(vertical, horizontal)``; padding is with zeros, alike on opposite sides.
        kernel: one of ``load(arch).kernels("conv2d", ...)``.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory, of x's dtype.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit the operator or the kernel.
    """
    shape = check_conv2d(x, weight, bias, residual, act, stride, padding)
    _check_sides(x)
    (_, channels, height, width), (kernel_h, kernel_w) = x.shape, weight.shape[1:3]
    batch, out_channels, *out = shape
    _check_kernel(kernel, "conv2d", x, (bias,), (x, weight, residual), (channels, out_channels))
    y = _empty_image(x, shape)
    if batch:
        sizes = (batch, height, width, channels, *out, out_channels, kernel_h, kernel_w, *stride, *padding)
        grid = _tiles(kernel, batch * out[0] * out[1], out_channels)
        _launch(kernel, grid, (x, weight, bias, residual, y, *sizes, _ACTIVATIONS.index(act)))
    return y


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernel: HipKernel,
) -> Tensor:
    """``act(conv1x1(depthwise(x, w_dw, b_dw, stride, padding), w_pw, b_pw) + residual)``.

    Both are accumulated in float32; the depthwise result is rounded to x's dtype, as it would be in memory.

    Args:
        x: ``[N, C, H, W]`` in channels-last memory, float32, float16 or bfloat16.
        w_dw: ``[KH, KW, C]`` contiguous (`pack_depthwise_weight`), of x's dtype.
        w_pw: ``[O, C]`` contiguous, of x's dtype.
        b_dw, b_pw: ``[C]`` and ``[O]`` float32, or None.
        residual: ``[N, O, OH, OW]`` in channels-last memory, of x's dtype, or None.
        act: none, relu, relu6, gelu (exact) or silu.
        stride, padding: of the depthwise convolution, ``(vertical, horizontal)``.
        kernel: one of ``load(arch).kernels("depthwise_pointwise", ...)``.

    Returns:
        ``[N, O, OH, OW]`` in channels-last memory, of x's dtype.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit the operator or the kernel.
    """
    shape = check_depthwise_pointwise(x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)
    _check_sides(x)
    (_, channels, height, width), (kernel_h, kernel_w) = x.shape, w_dw.shape[:2]
    batch, out_channels, *out = shape
    _check_kernel(kernel, "depthwise_pointwise", x, (b_dw, b_pw), (x, w_dw, w_pw, residual), (channels, out_channels))
    y = _empty_image(x, shape)
    if batch:
        sizes = (batch, height, width, channels, *out, out_channels, kernel_h, kernel_w, *stride, *padding)
        tensors = (x, w_dw, b_dw, w_pw, b_pw, residual, y)
        grid = _tiles(kernel, batch * out[0] * out[1], out_channels)
        _launch(kernel, grid, (*tensors, *sizes, _ACTIVATIONS.index(act)))
    return y


def epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, kernel: HipKernel) -> Tensor:
    """``act(y + bias + residual)`` in float32, written over `y`.

    Args:
        y: ``[M, C]`` with contiguous rows, or ``[N, C, H, W]`` in channels-last memory; float32, float16 or bfloat16.
        bias: ``[C]`` float32, or None.
        residual: as y in shape, layout and dtype (rows may lie another distance apart), or None.
        act: none, relu, relu6, gelu (exact) or silu.
        kernel: one of ``load(arch).kernels("epilogue", ...)``.

    Returns:
        `y` itself.

    Raises:
        ValueError: shapes, memory layouts, dtypes or the activation do not fit the operator or the kernel.
    """
    rows, other = check_epilogue(y, bias, residual, act)
    m, n = rows.shape
    stride_residual = n if other is None else other.stride(0)
    _check_kernel(kernel, "epilogue", y, (bias,), (rows, other), (n, rows.stride(0), stride_residual))
    if m:
        sizes = (m, n, rows.stride(0), stride_residual)
        _launch(kernel, _tiles(kernel, m, n), (rows, bias, other, *sizes, _ACTIVATIONS.index(act)))
    return y


def _tiles(kernel: HipKernel, rows: int, columns: int) -> int:
    """Workgroups for a result of this size; ValueError where its rows cannot be counted in 31 bits."""
    check(rows < 2**31, f"{rows} rows or pixels are more than kernels count: split the batch")
    return -(-rows // kernel.block[0]) * -(-columns // kernel.block[1])


def _check_sides(x: Tensor) -> None:
    """Pixels are located with divisions in float32 and products of 24 bits, which are exact up to here."""
    _, channels, height, width = x.shape
    largest = max(channels, height, width)
    check(largest < 2**20, f"x has {channels} channels of {height}x{width}: HIP kernels take fewer than 2^20 each way")


def _launch(kernel: HipKernel, grid: int, arguments: tuple[Tensor | int | None, ...]) -> None:
    first = arguments[0]
    assert isinstance(first, Tensor)
    device_of(first.device).launch(kernel, grid, arguments)


def _check_kernel(
    kernel: HipKernel,
    operator: str,
    x: Tensor,
    biases: tuple[Tensor | None, ...],
    tensors: tuple[Tensor | None, ...],
    sizes: tuple[int, ...],
) -> None:
    check(
        kernel.operator == operator and f"torch.{kernel.dtype}" == str(x.dtype),
        f"{kernel.name} is a kernel for {kernel.operator} in {kernel.dtype}, not for {operator} in {x.dtype}",
    )
    for bias in biases:
        check(bias is None or bias.dtype == torch.float32, "HIP kernels take biases in float32")
    if kernel.aligned:
        unit = 16 // x.element_size()
        check(
            all(size % unit == 0 and size < FAR for size in sizes)
            and all(t is None or t.data_ptr() % 16 == 0 for t in (*tensors, *biases)),
            f"{kernel.name} takes addresses on 16 bytes, and channels and row distances that are multiples of {unit} "
            f"below {FAR}",
        )


def _empty_image(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
