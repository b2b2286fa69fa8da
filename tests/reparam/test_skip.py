"""Skips folded into the convolution they run beside, at stride 1 and 2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import border_and_interior, random_batchnorm
from tests.reparam.test_compose import random_conv, run
from updp_rt.reparam import AffineConv, MergeError, add_identity, add_parallel, merge_chain

TOLERANCE = 1e-12


@settings(max_examples=30, deadline=None)
@given(kernel=st.sampled_from([1, 3, 5, 7]), groups=st.sampled_from([1, 2, 6]), seed=st.integers(0, 2**31))
def test_identity(kernel: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    conv = random_conv(6, 6, kernel, 1, kernel // 2, groups)
    x = torch.randn(2, 6, 15, 17, dtype=torch.float64)
    merged = add_identity(AffineConv.from_conv(conv))
    assert merged.groups == groups
    border, interior = border_and_interior(run(merged, x), conv(x) + x, max(1, kernel // 2))
    assert border <= TOLERANCE
    assert interior <= TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    height=st.integers(15, 18),
    width=st.integers(15, 18),
    seed=st.integers(0, 2**31),
)
def test_downsample_with_batchnorm(kernel: int, stride: int, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    conv = random_conv(4, 6, kernel, stride, kernel // 2)
    down = nn.Sequential(random_conv(4, 6, 1, stride, bias=False), random_batchnorm(6))
    x = torch.randn(2, 4, height, width, dtype=torch.float64)
    merged = add_parallel(AffineConv.from_conv(conv), merge_chain([("downsample", down)]))
    border, interior = border_and_interior(run(merged, x), (conv(x) + down(x)).detach(), 2)
    assert border <= TOLERANCE
    assert interior <= TOLERANCE


def test_a_grouped_skip_beside_a_dense_convolution() -> None:
    conv, skip = random_conv(4, 4, 5, 1, 2), random_conv(4, 4, 3, 1, 1, groups=4)
    x = torch.randn(2, 4, 11, 9, dtype=torch.float64)
    merged = add_parallel(AffineConv.from_conv(conv), AffineConv.from_conv(skip))
    border, interior = border_and_interior(run(merged, x), conv(x) + skip(x), 2)
    assert max(border, interior) <= TOLERANCE


@pytest.mark.parametrize(
    ("conv", "skip", "reason"),
    [
        (random_conv(4, 4, 3, 1, 1), random_conv(4, 4, 1, 2), r"its stride \(2, 2\) is not conv's \(1, 1\)"),
        (random_conv(4, 4, 3, 1, 0), random_conv(4, 4, 1), "kernels don't line up: 1 taps padded by 0 inside 3"),
        (random_conv(4, 4, 3, 1, 1), random_conv(4, 4, 5, 1, 2), "kernels don't line up"),
        (random_conv(4, 4, 2, 1, 1), random_conv(4, 4, 1), "kernels don't line up"),
        (random_conv(4, 4, 3, 1, 1), random_conv(4, 5, 1), "it maps 4 to 5 channels"),
    ],
)
def test_skips_that_cannot_be_folded_say_why(conv: nn.Conv2d, skip: nn.Conv2d, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        add_parallel(AffineConv.from_conv(conv), AffineConv.from_conv(skip, "skip"))


@pytest.mark.parametrize(
    ("conv", "reason"), [(random_conv(3, 4, 1), "as many"), (random_conv(4, 4, 3, 2, 1), "stride")]
)
def test_identities_that_cannot_be_folded_say_why(conv: nn.Conv2d, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        add_identity(AffineConv.from_conv(conv))
