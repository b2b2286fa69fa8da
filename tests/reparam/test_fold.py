"""BatchNorm and per-channel scales folded before and after, and whole chains read from modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import border_and_interior, random_batchnorm, relative_error
from tests.reparam.test_compose import random_conv, run
from updp_rt.reparam import (
    AffineConv,
    MergeError,
    batchnorm_affine,
    fold_batchnorm,
    fold_batchnorm_before,
    fold_chain,
    merge_chain,
    move_padding,
    scale_output,
)
from updp_rt.reparam.compose import compose_chain

TOLERANCE = 1e-12


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 2),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=st.integers(0, 2**31),
)
def test_batchnorm_after_a_padded_convolution(
    groups: int, kernel: int, stride: int, affine: bool, eps: float, seed: int
) -> None:
    torch.manual_seed(seed)
    conv, norm = random_conv(4, 8, kernel, stride, kernel // 2, groups), random_batchnorm(8, affine=affine, eps=eps)
    x = torch.randn(3, 4, 13, 15, dtype=torch.float64)
    found = run(fold_batchnorm(AffineConv.from_conv(conv), norm), x)
    border, interior = border_and_interior(found, norm(conv(x)).detach(), max(1, kernel // 2))
    assert border <= TOLERANCE
    assert interior <= TOLERANCE


@settings(max_examples=40, deadline=None)
@given(groups=st.sampled_from([1, 2, 4]), kernel=st.integers(1, 4), affine=st.booleans(), seed=st.integers(0, 2**31))
def test_batchnorm_before_an_unpadded_convolution(groups: int, kernel: int, affine: bool, seed: int) -> None:
    torch.manual_seed(seed)
    conv, norm = random_conv(4, 8, kernel, 1, 0, groups), random_batchnorm(4, affine=affine)
    x = torch.randn(3, 4, 13, 15, dtype=torch.float64)
    found = run(fold_batchnorm_before(norm, AffineConv.from_conv(conv)), x)
    assert relative_error(found, conv(norm(x)).detach()) <= TOLERANCE


def test_batchnorm_before_a_padded_convolution_is_refused() -> None:
    with pytest.raises(MergeError, match="the border would differ"):
        fold_batchnorm_before(random_batchnorm(4), AffineConv.from_conv(random_conv(4, 4, 3, padding=1)))


def test_batchnorm_without_statistics_is_refused() -> None:
    with pytest.raises(MergeError, match="bn9: a BatchNorm without running statistics"):
        batchnorm_affine(nn.BatchNorm2d(4, track_running_stats=False), "bn9")


def test_wrong_number_of_scales_is_refused() -> None:
    with pytest.raises(MergeError, match="3 scales for 4 output channels"):
        scale_output(AffineConv.from_conv(random_conv(4, 4, 1)), torch.ones(3))


def test_a_chain_of_everything() -> None:
    """BN, depthwise, BN, pointwise, scale, Sequential(conv, BN), Dropout, Identity: one convolution."""
    first, second = random_conv(4, 4, 3, 2, 0, groups=4), random_conv(4, 6, 1)
    inner = nn.Sequential(random_conv(6, 5, 3, 1, 0), random_batchnorm(5))
    gamma = torch.rand(6, dtype=torch.float64) + 0.5
    norms = [random_batchnorm(4), random_batchnorm(4)]
    merged = merge_chain(
        [
            ("bn0", norms[0]),
            ("dw", first),
            ("bn1", norms[1]),
            ("drop", nn.Dropout(0.3)),
            ("pw", second),
            ("gamma", gamma),
            ("none", nn.Identity()),
            ("inner", inner),
        ]
    )
    x = torch.randn(2, 4, 17, 15, dtype=torch.float64)
    wanted = inner(second(norms[1](first(norms[0](x)))) * gamma.view(1, -1, 1, 1)).detach()
    assert merged.kernel_size == (7, 7)
    assert relative_error(run(merged, x), wanted) <= TOLERANCE


def test_batchnorms_alone_are_a_depthwise_pointwise() -> None:
    norms = [random_batchnorm(5), random_batchnorm(5)]
    (merged,) = fold_chain([("a", norms[0]), ("b", norms[1])])
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    assert merged.groups == 5
    assert relative_error(run(merged, x), norms[1](norms[0](x)).detach()) <= TOLERANCE


def test_batchnorm_linear_linear_batchnorm_on_tokens() -> None:
    """The FFN of a pruned transformer block."""
    before, after = random_batchnorm(6), random_batchnorm(6)
    fc1, fc2 = (nn.Linear(a, b, dtype=torch.float64).requires_grad_(False) for a, b in ((6, 24), (24, 6)))
    merged = merge_chain([("bn", before), ("fc1", fc1), ("fc2", fc2), ("bn2", after)]).to_linear(torch.float64)
    x = torch.randn(2, 9, 6, dtype=torch.float64)

    def normed(norm: nn.BatchNorm2d, rows: torch.Tensor) -> torch.Tensor:
        return norm(rows.reshape(-1, 6, 1, 1)).reshape(rows.shape).detach()

    assert relative_error(merged(x).detach(), normed(after, fc2(fc1(normed(before, x))))) <= TOLERANCE


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.ReLU(), "ReLU is not a convolution"),
        (nn.LayerNorm(4), "LayerNorm is not a convolution"),
        (nn.MaxPool2d(2), "MaxPool2d"),
    ],
)
def test_a_nonlinearity_inside_is_refused_by_name(layer: nn.Module, reason: str) -> None:
    with pytest.raises(MergeError, match=f"cannot merge layer1.act: {reason}"):
        merge_chain([("conv", random_conv(4, 4, 1)), ("layer1.act", layer), ("conv2", random_conv(4, 4, 1))])


def test_an_activation_hidden_in_a_norm_is_refused() -> None:
    from timm.layers import BatchNormAct2d

    with pytest.raises(MergeError, match="cannot merge bn1: the activation ReLU"):
        merge_chain([("conv", random_conv(4, 4, 1)), ("bn1", BatchNormAct2d(4).double())])


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(MergeError, match="it holds no layer"):
        merge_chain([])
    assert move_padding([]) == []
    with pytest.raises(MergeError):
        compose_chain([])
