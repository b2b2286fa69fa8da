"""Checks of what kernels are given: memory as they read it, whatever language they are written in."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from updp_rt.ops.checks import Pair, check_alike, check_window, conv_shape

from . import DTYPES

Shape = tuple[int, ...]

# Distance of rows, in elements, from which 32-bit offsets of kernels that move 16 bytes at once do not span a tile.
FAR: Final = 2**22


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


def check_packed(name: str, tensor: Tensor | None, shape: Shape) -> None:
    """Raise ValueError unless `tensor`, where there is one, is contiguous and of `shape`."""
    check(
        tensor is None or (tensor.shape == shape and tensor.is_contiguous()),
        f"{name} must be contiguous {list(shape)}, not {_shown(tensor)}",
    )


def check_image(name: str, image: Tensor, shape: Shape | None = None) -> None:
    """Raise ValueError unless `image` is ``[N, C, H, W]`` in channels-last memory, and of `shape` if that is given."""
    check(
        image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last),
        f"{name} must be [N, C, H, W] in channels_last memory, not {_shown(image)}",
    )
    check(shape is None or image.shape == shape, f"{name} must be {list(shape or ())}, not {list(image.shape)}")


def check_dtypes(act: str, x: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless `x` has a dtype of `DTYPES`, `others` that are given have the same, and `act` exists."""
    check(x.dtype in DTYPES, f"x is {x.dtype}, but kernels take float32, float16 and bfloat16")
    check_alike(act, x=x, **others)


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
    check_dtypes(act, x, weight=weight, residual=residual)
    check_rows("x", x, k)
    check_packed("weight", weight, (n, k))
    check_packed("bias", bias, (n,))
    if residual is not None:
        check_rows("residual", residual, n)
        check(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")


def check_dual_linear(x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> None:
    """Raise ValueError unless these are arguments of `dual_linear`."""
    n = w_x.shape[0]
    check_dtypes(act, x, a=a, w_x=w_x, w_a=w_a)
    check_rows("x", x, x.shape[-1])
    check_rows("a", a, a.shape[-1])
    check(a.shape[0] == x.shape[0], f"a has {a.shape[0]} rows, x {x.shape[0]}")
    check_packed("w_x", w_x, (n, x.shape[-1]))
    check_packed("w_a", w_a, (n, a.shape[-1]))
    check_packed("bias", bias, (n,))


def check_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str, stride: Pair, padding: Pair
) -> Shape:
    """The shape of `conv2d`'s result; ValueError unless these are its arguments."""
    check_dtypes(act, x, weight=weight, residual=residual)
    check_image("x", x)
    check(weight.dim() == 4, f"weight must be packed [O, KH, KW, I], not {list(weight.shape)}")
    out_channels, kernel_h, kernel_w = weight.shape[:3]
    check_packed("weight", weight, (out_channels, kernel_h, kernel_w, x.shape[1]))
    check_packed("bias", bias, (out_channels,))
    return _result(x, weight.permute(0, 3, 1, 2), residual, stride, padding)


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
    check_dtypes(act, x, w_dw=w_dw, w_pw=w_pw, residual=residual)
    check_image("x", x)
    channels, out_channels = x.shape[1], w_pw.shape[0]
    check(w_dw.dim() == 3, f"w_dw must be packed [KH, KW, C], not {list(w_dw.shape)}")
    check_packed("w_dw", w_dw, (*w_dw.shape[:2], channels))
    check_packed("w_pw", w_pw, (out_channels, channels))
    check_packed("b_dw", b_dw, (channels,))
    check_packed("b_pw", b_pw, (out_channels,))
    return _result(x, w_dw.permute(2, 0, 1).unsqueeze(1).expand(channels, 1, -1, -1), residual, stride, padding, w_pw)


def check_epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> tuple[Tensor, Tensor | None]:
    """`y` and `residual` as rows; ValueError unless these are arguments of `epilogue`."""
    check_dtypes(act, y, residual=residual)
    check(residual is None or residual.shape == y.shape, "residual must have the shape of y")
    rows = as_rows("y", y)
    check_packed("bias", bias, (rows.shape[1],))
    return rows, None if residual is None else as_rows("residual", residual)


def _result(
    x: Tensor, kernel: Tensor, residual: Tensor | None, stride: Pair, padding: Pair, pointwise: Tensor | None = None
) -> Shape:
    """Shape of a convolution's result, of a 1x1 one after it where there is one; `residual` has it too."""
    check_window(x, "weight", kernel, stride, padding)
    batch, channels, height, width = conv_shape(x.shape, kernel.shape, stride, padding)
    shape = (batch, channels if pointwise is None else pointwise.shape[0], height, width)
    if residual is not None:
        check_image("residual", residual, shape)
    return shape


def _shown(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{list(tensor.shape)} by {list(tensor.stride())}"
