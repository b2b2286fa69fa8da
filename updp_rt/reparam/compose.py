"""Two affine convolutions in a row as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from updp_rt.reparam.affine import AffineConv
from updp_rt.reparam.errors import MergeError


def compose(first: AffineConv, second: AffineConv) -> AffineConv:
    """``second(first(x))`` as one dense convolution, exact at every pixel, border included.

    The kernel is ``W[o, i, s1 * u + a] = sum_m W2[o, m, u] * W1[m, i, a]``: one matrix product for each tap u; hence
    ``k = k1 + s1 * (k2 - 1)``, ``s = s1 * s2``, ``p = p1``.

    Raises:
        MergeError: `second` is padded: its zeros do not come from `first`, so the border of the two is not that of a
            convolution (`move_padding` gives the chain that pads once, at its head). Or channels don't line up.
    """
    if second.padding != (0, 0):
        raise MergeError(
            second.name,
            f"it pads by {second.padding} inside a chain, so the border would differ; pad at the head of the chain",
        )
    if first.out_channels != second.in_channels:
        raise MergeError(
            second.name, f"it takes {second.in_channels} channels, but {first.name} gives {first.out_channels}"
        )
    if second.groups == 1 and second.is_pointwise:
        # The common case (k x k, then 1x1) is one matrix product per group of the first.
        reads = second.weight.flatten(1).unflatten(1, (first.groups, -1)).transpose(0, 1)
        product = reads @ first.weight.flatten(1).unflatten(0, (first.groups, -1))
        weight = product.transpose(0, 1).reshape(second.out_channels, first.in_channels, *first.kernel_size)
    else:
        weight = _compose_taps(first.dense().weight, second, first.stride)
    per_group = first.bias.view(second.groups, 1, -1).expand(-1, second.out_channels // second.groups, -1)
    bias = second.bias + (second.weight.sum(dim=(2, 3)) * per_group.flatten(0, 1)).sum(dim=1)
    return AffineConv(
        weight=weight,
        bias=bias,
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=first.padding,
        name=f"{first.name}+{second.name}",
    )


def _compose_taps(first: Tensor, second: AffineConv, stride: tuple[int, int]) -> Tensor:
    """``W[o, i, s1 * u + a]`` of a dense first layer's weight; one product for each group of the second.

    torch's transposed convolution is the same sum, several times slower: its products are a few taps wide.
    """
    (height, width), (rows, columns) = first.shape[2:], second.kernel_size
    size = (height + stride[0] * (rows - 1), width + stride[1] * (columns - 1))
    weight = first.new_zeros(second.out_channels, first.shape[1], *size)
    reads = first.flatten(1).unflatten(0, (second.groups, -1))
    taps = second.weight.unflatten(0, (second.groups, -1)).permute(3, 4, 0, 1, 2)
    for row in range(rows):
        for column in range(columns):
            top, left = stride[0] * row, stride[1] * column
            product = (taps[row, column] @ reads).view(second.out_channels, -1, height, width)
            weight[:, :, top : top + height, left : left + width] += product
    return weight


def head_padding(
    paddings: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The padding at a chain's head that makes room for all paddings after it.

    Returns the head's padding ``p1 + s1 * p2 + s1 * s2 * p3 + ...`` and, for each layer, the width of the ring its
    output then carries around what it gave before: the padding that its successors no longer add.
    """
    rings = [(0, 0)]
    for padding, stride in zip(reversed(paddings), reversed(strides), strict=True):
        ring = rings[-1]
        rings.append((padding[0] + stride[0] * ring[0], padding[1] + stride[1] * ring[1]))
    head, *rest = reversed(rings)
    return head, rest


def move_padding(chain: Sequence[AffineConv]) -> list[AffineConv]:
    """The chain that pads once, at its head: same interior, and a border ring that merges exactly."""
    if not chain:
        return []
    padding, _ = head_padding([conv.padding for conv in chain], [conv.stride for conv in chain])
    return [replace(chain[0], padding=padding), *(replace(conv, padding=(0, 0)) for conv in chain[1:])]


def compose_chain(chain: Sequence[AffineConv]) -> AffineConv:
    """A whole chain as one convolution, see `compose`."""
    if not chain:
        raise MergeError("chain", "it holds no layer")
    merged = chain[0]
    for conv in chain[1:]:
        merged = compose(merged, conv)
    return merged


def centre_tap(conv: AffineConv) -> AffineConv:
    """The 1x1 convolution at the tap that sees the output's own pixel (index = padding)."""
    (kh, kw), (ph, pw) = conv.kernel_size, conv.padding
    if ph >= kh or pw >= kw:
        raise MergeError(conv.name, f"padding {conv.padding} leaves no centre tap in a {kh}x{kw} kernel")
    weight = conv.weight[:, :, ph : ph + 1, pw : pw + 1]
    return replace(conv, weight=weight.to(memory_format=torch.contiguous_format), padding=(0, 0))
