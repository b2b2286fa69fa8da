"""Two convolutions as one: exact for every kernel, stride, group count and padding, border included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import border_and_interior, relative_error
from updp_rt.reparam import AffineConv, MergeError, centre_tap, compose, compose_chain, move_padding

TOLERANCE = 1e-12


def random_conv(
    c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int = 0, groups: int = 1, bias=True
) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias, dtype=torch.float64)
    return conv.requires_grad_(False)


def run(conv: AffineConv, x: Tensor) -> Tensor:
    return conv.to_conv(torch.float64)(x).detach()


@st.composite
def conv_pairs(draw: st.DrawFn) -> tuple[nn.Conv2d, nn.Conv2d]:
    groups1, groups2 = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    width = 6
    first = random_conv(
        groups1 * draw(st.integers(1, 2)),
        width,
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 2)),
        groups1,
        draw(st.booleans()),
    )
    second = random_conv(
        width,
        groups2 * draw(st.integers(1, 2)),
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2)),
        groups2,
        draw(st.booleans()),
    )
    return first, second


@settings(max_examples=80, deadline=None)
@given(pair=conv_pairs(), height=st.integers(17, 29), width=st.integers(17, 29), seed=st.integers(0, 2**31))
def test_any_two_convolutions_with_padding_at_the_head(pair, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    first, second = pair
    x = torch.randn(2, first.in_channels, height, width, dtype=torch.float64)
    chain = move_padding([AffineConv.from_conv(first), AffineConv.from_conv(second)])
    merged = compose_chain(chain)
    # The two convolutions themselves, padded once at the head: torch's own meaning of the chain.
    padding = tuple(p1 + s1 * p2 for p1, s1, p2 in zip(first.padding, first.stride, second.padding, strict=True))
    first.padding, second.padding = padding, (0, 0)
    wanted = second(first(x))
    found = run(merged, x)
    assert merged.stride == tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    ring = max(-(-merged.padding[0] // merged.stride[0]), -(-merged.padding[1] // merged.stride[1]))
    if min(wanted.shape[2:]) > 2 * ring:
        border, interior = border_and_interior(found, wanted, ring) if ring else (0.0, relative_error(found, wanted))
        assert border <= TOLERANCE
        assert interior <= TOLERANCE
    else:
        assert relative_error(found, wanted) <= TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 3), groups=st.sampled_from([1, 2, 6]), seed=st.integers(0, 2**31)
)
def test_any_convolution_then_pointwise_keeps_its_own_padding(kernel: int, stride: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    first, second = random_conv(6, 6, kernel, stride, kernel // 2, groups), random_conv(6, 5, 1)
    x = torch.randn(2, 6, 21, 19, dtype=torch.float64)
    merged = compose(AffineConv.from_conv(first), AffineConv.from_conv(second))
    assert merged.padding == (kernel // 2, kernel // 2)
    ring = max(1, kernel // 2)
    border, interior = border_and_interior(run(merged, x), second(first(x)), ring)
    assert border <= TOLERANCE
    assert interior <= TOLERANCE


def test_padding_inside_is_wrong_on_the_ring_alone() -> None:
    """What the refusal below protects from: the naive 5x5 is right inside, and wrong on a ring of one pixel."""
    first, second = random_conv(3, 4, 3, padding=1), random_conv(4, 5, 3, padding=1)
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    naive = compose_chain(move_padding([AffineConv.from_conv(first), AffineConv.from_conv(second)]))
    border, interior = border_and_interior(run(naive, x), second(first(x)), 1)
    assert interior <= TOLERANCE
    assert border > 1e-3


@pytest.mark.parametrize(
    ("kernels", "strides", "size"),
    [((3, 3), (1, 1), 5), ((3, 3), (2, 1), 7), ((1, 3, 1), (1, 2, 1), 3), ((7, 1, 1), (1, 1, 1), 7)],
)
def test_kernel_sizes_of_the_families(kernels: tuple[int, ...], strides: tuple[int, ...], size: int) -> None:
    chain = [AffineConv.from_conv(random_conv(3, 3, k, s, k // 2)) for k, s in zip(kernels, strides, strict=True)]
    merged = compose_chain(move_padding(chain))
    assert merged.kernel_size == (size, size)
    assert merged.padding == (size // 2, size // 2)


def test_linear_after_linear() -> None:
    first, second = (nn.Linear(a, b, dtype=torch.float64).requires_grad_(False) for a, b in ((5, 20), (20, 7)))
    merged = compose(AffineConv.from_linear(first), AffineConv.from_linear(second)).to_linear(torch.float64)
    x = torch.randn(3, 11, 5, dtype=torch.float64)
    assert relative_error(merged(x).detach(), second(first(x))) <= TOLERANCE


def test_dense_of_a_grouped_convolution_is_the_same_map() -> None:
    conv = random_conv(6, 9, 3, 2, 1, groups=3)
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    assert relative_error(run(AffineConv.from_conv(conv).dense(), x), conv(x)) <= TOLERANCE


def test_centre_tap_is_what_a_kernel_of_zeros_around_it_computes() -> None:
    conv = random_conv(4, 4, 3, 2, 1)
    kept = conv.weight[:, :, 1, 1].clone()
    conv.weight.zero_()
    conv.weight[:, :, 1, 1] = kept
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    tap = centre_tap(AffineConv.from_conv(conv))
    assert tap.kernel_size == (1, 1)
    assert relative_error(run(tap, x), conv(x)) <= TOLERANCE


def test_padding_inside_a_chain_is_refused() -> None:
    first, second = (
        AffineConv.from_conv(random_conv(3, 4, 3)),
        AffineConv.from_conv(random_conv(4, 5, 3, padding=1), "two"),
    )
    with pytest.raises(MergeError, match=r"cannot merge two: it pads by \(1, 1\) inside a chain"):
        compose(first, second)


def test_channels_that_do_not_line_up_are_refused() -> None:
    with pytest.raises(MergeError, match="takes 6 channels, but conv gives 4"):
        compose(AffineConv.from_conv(random_conv(3, 4, 3)), AffineConv.from_conv(random_conv(6, 5, 1), "second"))


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(3, 3, 3, dilation=2), "dilation"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "padding mode 'reflect'"),
        (nn.Conv2d(3, 3, 4, padding="same"), "even kernel"),
        (nn.ConvTranspose2d(3, 3, 3), "more than a plain convolution"),
        (nn.Linear(3, 3), "more than a plain convolution"),
    ],
)
def test_convolutions_that_cannot_be_read_say_why(conv: nn.Module, reason: str) -> None:
    with pytest.raises(MergeError, match=reason) as error:
        AffineConv.from_conv(conv, "stem.conv")  # type: ignore[arg-type]
    assert error.value.layer == "stem.conv"


def test_padding_same_is_symmetric_for_odd_kernels() -> None:
    conv = nn.Conv2d(3, 4, (3, 5), padding="same", dtype=torch.float64).requires_grad_(False)
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    assert relative_error(run(AffineConv.from_conv(conv), x), conv(x)) <= TOLERANCE


def test_only_pointwise_maps_become_linear_layers() -> None:
    with pytest.raises(MergeError, match="only a dense, unpadded 1x1"):
        AffineConv.from_conv(random_conv(3, 3, 3)).to_linear()


def test_results_keep_the_requested_dtype() -> None:
    merged = AffineConv.from_conv(random_conv(3, 3, 3)).to_conv(torch.bfloat16)
    assert merged.weight.dtype is torch.bfloat16
    assert merged.bias is not None
    assert merged.bias.dtype is torch.bfloat16
