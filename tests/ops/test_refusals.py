"""What the fused operators refuse: one clear error, which names what was wrong and what was expected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from updp_rt import ops


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            lambda: ops.linear(zeros(2, 3), zeros(5, 4)),
            r"weight has shape \[5, 4\], but \[any, 3\] is expected",
        ),
        (
            lambda: ops.linear(zeros(2, 3), zeros(3)),
            r"weight has shape \[3\], but \[any, 3\] is expected",
        ),
        (
            lambda: ops.linear(zeros(2, 3), zeros(5, 3), zeros(1)),
            r"bias has shape \[1\], but \[5\] is expected",
        ),
        (
            lambda: ops.linear(zeros(7, 2, 3), zeros(5, 3), None, zeros(2, 5)),
            r"residual has shape \[2, 5\], but \[7, 2, 5\] is expected",
        ),
        (
            lambda: ops.linear(zeros(2, 3), zeros(5, 3), act="swish"),
            r"unknown activation 'swish': choose among none, relu, relu6, gelu, silu",
        ),
        (
            lambda: ops.linear(zeros(2, 3), zeros(5, 3).half()),
            r"one dtype, but got x torch.float32, weight torch.float16; convert them with \.to\(\)",
        ),
        (
            lambda: ops.linear(zeros(2, 3), zeros(5, 3), zeros(5).to("meta")),
            r"one device, but got x cpu, weight cpu, bias meta; convert them with \.to\(\)",
        ),
        (
            lambda: ops.linear(zeros(2, 3).long(), zeros(5, 3).long()),
            r"x must be of a floating dtype, not torch.int64",
        ),
        (
            lambda: ops.depthwise_conv2d(zeros(2, 3, 8, 8), zeros(3, 2, 3, 3)),
            r"weight has shape \[3, 2, 3, 3\], but \[3, 1, any, any\] is expected",
        ),
        (
            lambda: ops.depthwise_conv2d(zeros(2, 3, 8, 8), zeros(3, 1, 3, 3), residual=zeros(2, 3, 8, 8)),
            r"residual has shape \[2, 3, 8, 8\], but \[2, 3, 6, 6\] is expected",
        ),
        (
            lambda: ops.depthwise_conv2d(zeros(2, 3, 2, 8), zeros(3, 1, 3, 3)),
            r"the kernel of weight, \[3, 3\], does not fit an image of \[2, 8\] padded by \(0, 0\)",
        ),
        (
            lambda: ops.max_pool(zeros(2, 3, 8, 8), (3, 3), (2, 2), (2, 1)),
            r"padding must be from 0 to half of the kernel \(3, 3\), not \(2, 1\)",
        ),
        (
            lambda: ops.max_pool(zeros(2, 3, 8, 8), (3, 0), (2, 2)),
            r"kernel and stride must be at least 1, not \(3, 0\) and \(2, 2\)",
        ),
        (
            lambda: ops.max_pool(zeros(2, 3, 2, 8), (3, 3), (2, 2)),
            r"a window of \(3, 3\) does not fit an image of \[2, 8\] padded by \(0, 0\)",
        ),
        (
            lambda: ops.average_pool(zeros(2, 3, 0, 8)),
            r"x has shape \[2, 3, 0, 8\], which has no values to take the mean of",
        ),
        (
            lambda: ops.conv2d(zeros(2, 3, 8, 8), zeros(4, 5, 3, 3)),
            r"x has shape \[2, 3, 8, 8\], but \[any, 5, any, any\] is expected",
        ),
        (
            lambda: ops.conv2d(zeros(3, 8, 8), zeros(4, 3, 3, 3)),
            r"x has shape \[3, 8, 8\], but \[any, 3, any, any\] is expected",
        ),
        (
            lambda: ops.conv2d(zeros(2, 6, 8, 8), zeros(4, 6, 3, 3), groups=2),
            r"x has shape \[2, 6, 8, 8\], but \[any, 12, any, any\] is expected",
        ),
        (
            lambda: ops.conv2d(zeros(2, 3, 8, 8), zeros(4, 3, 3, 3), zeros(3)),
            r"bias has shape \[3\], but \[4\] is expected",
        ),
        (
            lambda: ops.conv2d(zeros(2, 3, 8, 9), zeros(4, 3, 3, 3), None, zeros(2, 4, 8, 9), stride=(2, 1)),
            r"residual has shape \[2, 4, 8, 9\], but \[2, 4, 3, 7\] is expected",
        ),
        (
            lambda: ops.depthwise_pointwise(zeros(2, 3, 8, 8), zeros(3, 3, 3, 3), None, zeros(4, 3, 1, 1), None),
            r"w_dw has shape \[3, 3, 3, 3\], but \[3, 1, any, any\] is expected",
        ),
        (
            lambda: ops.depthwise_pointwise(zeros(2, 3, 8, 8), zeros(3, 1, 3, 3), None, zeros(4, 3, 3, 3), None),
            r"w_pw has shape \[4, 3, 3, 3\], but \[any, 3, 1, 1\] is expected",
        ),
        (
            lambda: ops.depthwise_pointwise(zeros(2, 3, 8, 8), zeros(3, 1, 3, 3), zeros(4), zeros(4, 3, 1, 1), None),
            r"b_dw has shape \[4\], but \[3\] is expected",
        ),
        (
            lambda: ops.depthwise_pointwise(zeros(2, 3, 8, 8), zeros(3, 1, 3, 3), None, zeros(4, 3, 1, 1), zeros(3)),
            r"b_pw has shape \[3\], but \[4\] is expected",
        ),
        (
            lambda: ops.depthwise_pointwise(
                zeros(2, 3, 8, 8), zeros(3, 1, 3, 3), None, zeros(4, 3, 1, 1), None, zeros(2, 4, 8, 8)
            ),
            r"residual has shape \[2, 4, 8, 8\], but \[2, 4, 6, 6\] is expected",
        ),
        (
            lambda: ops.dual_linear(zeros(2, 3), zeros(5, 3), zeros(7, 3), zeros(7, 3)),
            r"a has shape \[5, 3\], but \[2, any\] is expected",
        ),
        (
            lambda: ops.dual_linear(zeros(2, 3), zeros(2, 5), zeros(7, 3), zeros(6, 5)),
            r"w_a has shape \[6, 5\], but \[7, 5\] is expected",
        ),
        (
            lambda: ops.dual_linear(zeros(2, 3), zeros(2, 5), zeros(7, 4), zeros(7, 5)),
            r"w_x has shape \[7, 4\], but \[any, 3\] is expected",
        ),
        (
            lambda: ops.attention(zeros(2, 12), 2),
            r"qkv has shape \[2, 12\], but \[any, any, any\] is expected",
        ),
        (
            lambda: ops.attention(zeros(2, 5, 15), 2),
            r"the last dimension of qkv, 15, does not split into 3 x 2 heads",
        ),
        (
            lambda: ops.attention(zeros(2, 5, 15), 0),
            r"the last dimension of qkv, 15, does not split into 3 x 0 heads",
        ),
        (
            lambda: ops.layer_norm(zeros(2, 3), zeros(4)),
            r"weight has shape \[4\], but \[3\] is expected",
        ),
        (
            lambda: ops.layer_norm(zeros(2, 3), None, None, -1e-5),
            r"eps must be at least 0, not -1e-05",
        ),
        (
            lambda: ops.add_layer_norm(zeros(2, 3), zeros(3, 3)),
            r"residual has shape \[3, 3\], but \[2, 3\] is expected",
        ),
        (
            lambda: ops.add_layer_norm(zeros(2, 3), zeros(2, 3), None, zeros(2)),
            r"bias has shape \[2\], but \[3\] is expected",
        ),
        (
            lambda: ops.norm_linear(zeros(2, 3), zeros(5, 4)),
            r"weight has shape \[5, 4\], but \[any, 3\] is expected",
        ),
        (
            lambda: ops.prepend_tokens(zeros(2, 5, 3), zeros(1, 1, 4), zeros(1, 6, 3)),
            r"prefix has shape \[1, 1, 4\], but \[1, any, 3\] is expected",
        ),
        (
            lambda: ops.prepend_tokens(zeros(2, 5, 3), zeros(1, 1, 3), zeros(1, 5, 3)),
            r"position has shape \[1, 5, 3\], but \[1, 6, 3\] is expected",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(refused: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        refused()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda: ops.linear(zeros(), zeros(5, 3)), "x"),
        (lambda: ops.conv2d(zeros(2, 3, 8, 8), zeros(4)), "weight"),
        (lambda: ops.conv2d(zeros(2, 3, 8, 8), zeros(4, 3)), "weight"),
        (lambda: ops.conv2d(zeros(2, 3, 8, 8), zeros(4, 3, 9, 3)), "weight|kernel"),
        (lambda: ops.conv2d(zeros(2, 6, 8, 8), zeros(5, 2, 3, 3), groups=3), "weight|groups"),
        (lambda: ops.conv2d(zeros(2, 6, 8, 8), zeros(5, 6, 3, 3), stride=(0, 1)), "stride"),
        (lambda: ops.conv2d(zeros(2, 6, 8, 8), zeros(5, 6, 3, 3), padding=(0, -1)), "padding"),
        (lambda: ops.depthwise_pointwise(zeros(3), zeros(3, 1, 3, 3), None, zeros(4, 3, 1, 1), None), "x"),
        (
            lambda: ops.depthwise_pointwise(zeros(2, 3, 2, 2), zeros(3, 1, 3, 3), None, zeros(4, 3, 1, 1), None),
            "w_dw|kernel",
        ),
        (lambda: ops.attention(zeros(2, 5, 15).long(), 5), "qkv"),
        (lambda: ops.layer_norm(zeros()), "x"),
    ],
)
def test_arguments_that_fit_nothing_are_a_value_error_too(refused: Callable[[], Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b({named})\b") as error:
        refused()
    assert "\n" not in str(error.value)
