"""One affine map in convolution form: the value every merging rule takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from updp_rt.reparam.errors import MergeError


@dataclass(frozen=True)
class AffineConv:
    """``y = conv2d(x, weight, stride, padding, groups) + bias``, kept in float64.

    A linear layer is the case of a 1x1 kernel. Padding is always with zeros, dilation always 1.

    Attributes:
        weight: ``[out, in / groups, kh, kw]``, float64.
        bias: ``[out]``, float64.
        stride, padding: ``(vertical, horizontal)``.
        name: how error messages call this layer.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    name: str = "layer"

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def is_pointwise(self) -> bool:
        return self.kernel_size == (1, 1)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, name: str = "conv") -> AffineConv:
        """Read a plain ``nn.Conv2d``; raises `MergeError` for dilation, padding modes, custom forwards."""
        if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
            raise MergeError(name, f"{type(conv).__name__} computes more than a plain convolution")
        if conv.padding_mode != "zeros":
            raise MergeError(name, f"padding mode {conv.padding_mode!r} is not padding with zeros")
        if tuple(conv.dilation) != (1, 1):
            raise MergeError(name, f"dilation {tuple(conv.dilation)}: only undilated kernels merge")
        return cls(
            weight=conv.weight.detach().double(),
            bias=_bias(conv.bias, conv.out_channels, conv.weight),
            stride=_pair(conv.stride),
            padding=conv_padding(conv, name),
            groups=conv.groups,
            name=name,
        )

    @classmethod
    def from_linear(cls, linear: nn.Linear, name: str = "linear") -> AffineConv:
        """Read a plain ``nn.Linear`` as a 1x1 convolution."""
        if not isinstance(linear, nn.Linear) or type(linear).forward is not nn.Linear.forward:
            raise MergeError(name, f"{type(linear).__name__} computes more than a plain linear layer")
        weight = linear.weight.detach().double()[:, :, None, None]
        return cls(weight, _bias(linear.bias, linear.out_features, linear.weight), name=name)

    def dense(self) -> AffineConv:
        """The same map with ``groups == 1``: a block-diagonal kernel."""
        if self.groups == 1:
            return self
        blocks = self.weight.unflatten(0, (self.groups, -1))  # [group, out of it, in of it, kh, kw]
        weight = blocks.new_zeros(self.groups, blocks.shape[1], self.groups, *blocks.shape[2:])
        group = torch.arange(self.groups, device=weight.device)
        weight[group, :, group] = blocks
        weight = weight.flatten(2, 3).flatten(0, 1)
        return replace(self, weight=weight, groups=1)

    def to_conv(self, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` with bias, weights rounded once to `dtype`, on the weights' device."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            groups=self.groups,
            device="meta",
            dtype=dtype,
        )
        assert conv.bias is not None
        conv.weight = nn.Parameter(self.weight.to(dtype))
        conv.bias = nn.Parameter(self.bias.to(dtype))
        return conv

    def to_linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """A plain ``nn.Linear``; raises `MergeError` unless this is a dense 1x1 map of stride 1."""
        if not self.is_pointwise or self.groups != 1 or self.stride != (1, 1) or self.padding != (0, 0):
            raise MergeError(self.name, "only a dense, unpadded 1x1 map of stride 1 is a linear layer")
        linear = nn.Linear(self.in_channels, self.out_channels, device="meta", dtype=dtype)
        linear.weight = nn.Parameter(self.weight[:, :, 0, 0].to(dtype))
        linear.bias = nn.Parameter(self.bias.to(dtype))
        return linear


def conv_padding(conv: nn.Conv2d, name: str = "conv") -> tuple[int, int]:
    """Zero padding of `conv` in pixels a side; ``padding="same"`` needs odd kernels to be symmetric."""
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        kh, kw = _pair(conv.kernel_size)
        if kh % 2 == 0 or kw % 2 == 0:
            raise MergeError(name, f"padding='same' of an even kernel {kh}x{kw} is not symmetric")
        return kh // 2, kw // 2
    assert not isinstance(conv.padding, str)
    return _pair(conv.padding)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _bias(bias: Tensor | None, channels: int, like: Tensor) -> Tensor:
    if bias is None:
        return torch.zeros(channels, dtype=torch.float64, device=like.device)
    return bias.detach().double()
