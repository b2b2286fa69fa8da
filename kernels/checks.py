"""Checks of the operators' arguments, whatever language their kernels are written in."""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]

ACTIVATIONS = ("none", "relu", "relu6", "gelu", "silu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_rows(name: str, matrix: Tensor, columns: int) -> None:
    """Raise ValueError unless `matrix` is ``[any, columns]``, each row contiguous; rows may lie any distance apart."""
    check(
        matrix.dim() == 2 and matrix.shape[1] == columns and (columns == 1 or matrix.stride(1) == 1),
        f"{name} must be [rows, {columns}] with contiguous rows, not {list(matrix.shape)} by {list(matrix.stride())}",
    )


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `tensor` is contiguous and of `shape`."""
    check(
        tensor.shape == shape and tensor.is_contiguous(),
        f"{name} must be contiguous {list(shape)}, not {list(tensor.shape)} by {list(tensor.stride())}",
    )


def check_image(name: str, image: Tensor) -> None:
    """Raise ValueError unless `image` is ``[N, C, H, W]`` in channels-last memory."""
    check(
        image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last),
        f"{name} must be [N, C, H, W] in channels_last memory, not {list(image.shape)} by {list(image.stride())}",
    )


def check_dtypes(x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless `x` has a supported dtype and all `others` that are given have the same."""
    check(x.dtype in DTYPES, f"dtype {x.dtype} is none of float32, float16, bfloat16")
    for name, other in others.items():
        check(other is None or other.dtype == x.dtype, f"{name} must be {x.dtype} as x is")


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Height and width of a convolution's result; ValueError where the kernel does not fit even once."""
    height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    check(height > 0 and width > 0, f"a kernel of {kernel} does not fit {size} padded by {padding}")
    return height, width


def check_activation(act: str) -> None:
    """Raise ValueError unless `act` is one of `ACTIVATIONS`."""
    if act not in ACTIVATIONS:
        raise ValueError(f"activation {act!r} is none of {', '.join(ACTIVATIONS)}")


def as_rows(name: str, tensor: Tensor) -> Tensor:
    """``[M, C]`` as it is; ``[N, C, H, W]`` in channels-last memory as a view ``[N * H * W, C]`` of the same memory."""
    if tensor.dim() == 4:
        check_image(name, tensor)
        return tensor.permute(0, 2, 3, 1).view(-1, tensor.shape[1])
    check_rows(name, tensor, tensor.shape[-1])
    return tensor


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> None:
    """Raise ValueError unless these are arguments of `linear`."""
    k, n = x.shape[-1], weight.shape[0]
    check_activation(act)
    check_dtypes(x, weight=weight, residual=residual)
    check_rows("x", x, k)
    check_shape("weight", weight, (n, k))
    if bias is not None:
        check_shape("bias", bias, (n,))
    if residual is not None:
        check_rows("residual", residual, n)
        check(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")


def check_dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> None:
    """Raise ValueError unless these are arguments of `dual_linear`."""
    n = w_x.shape[0]
    check_activation(act)
    check_dtypes(x, a=a, w_x=w_x, w_a=w_a)
    check_rows("x", x, x.shape[-1])
    check_rows("a", a, a.shape[-1])
    check(a.shape[0] == x.shape[0], f"a has {a.shape[0]} rows, x {x.shape[0]}")
    check_shape("w_x", w_x, (n, x.shape[-1]))
    check_shape("w_a", w_a, (n, a.shape[-1]))
    if bias is not None:
        check_shape("bias", bias, (n,))


def check_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Shape:
    """The shape of `conv2d`'s result; ValueError unless these are its arguments."""
    check_activation(act)
    check_image("x", x)
    check_dtypes(x, weight=weight, residual=residual)
    batch, channels, height, width = x.shape
    check(weight.dim() == 4, f"weight must be packed [O, KH, KW, I], not {list(weight.shape)}")
    out_channels, kernel_h, kernel_w = weight.shape[:3]
    check_shape("weight", weight, (out_channels, kernel_h, kernel_w, channels))
    shape = (batch, out_channels, *output_size((height, width), (kernel_h, kernel_w), stride, padding))
    if bias is not None:
        check_shape("bias", bias, (out_channels,))
    _check_residual(residual, shape)
    return shape


def check_depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None,
    act: str,
    stride: Pair,
    padding: Pair,
) -> Shape:
    """The shape of `depthwise_pointwise`'s result; ValueError unless these are its arguments."""
    check_activation(act)
    check_image("x", x)
    check_dtypes(x, w_dw=w_dw, w_pw=w_pw, residual=residual)
    batch, channels, height, width = x.shape
    out_channels = w_pw.shape[0]
    check(w_dw.dim() == 3, f"w_dw must be packed [KH, KW, C], not {list(w_dw.shape)}")
    kernel_h, kernel_w = w_dw.shape[:2]
    check_shape("w_dw", w_dw, (kernel_h, kernel_w, channels))
    check_shape("w_pw", w_pw, (out_channels, channels))
    shape = (batch, out_channels, *output_size((height, width), (kernel_h, kernel_w), stride, padding))
    if b_dw is not None:
        check_shape("b_dw", b_dw, (channels,))
    if b_pw is not None:
        check_shape("b_pw", b_pw, (out_channels,))
    _check_residual(residual, shape)
    return shape


def check_epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> tuple[Tensor, Tensor | None]:
    """`y` and `residual` as rows; ValueError unless these are arguments of `epilogue`."""
    check_activation(act)
    check_dtypes(y, residual=residual)
    check(residual is None or residual.shape == y.shape, "residual must have the shape of y")
    rows = as_rows("y", y)
    if bias is not None:
        check_shape("bias", bias, (rows.shape[1],))
    return rows, None if residual is None else as_rows("residual", residual)


def _check_residual(residual: Tensor | None, shape: Shape) -> None:
    if residual is not None:
        check_image("residual", residual)
        check(residual.shape == shape, f"residual must be {list(shape)}, not {list(residual.shape)}")
