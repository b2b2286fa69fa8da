"""Consecutive blocks as one segment: no activations between them, and one convolution of several blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt.blocks.model import find_family, make_progressive, progressive_blocks
from updp_rt.blocks.norms import copy_activation
from updp_rt.blocks.parts import APART, JOINED, Part
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.blocks.steps import Keep, Lambda, Place, fade, interior
from updp_rt.reparam import AffineConv, compose_chain, conv_padding, head_padding, move_padding

DENSEST = 4.0  # weights of a run of blocks as one convolution, to those of the blocks


class Segment(nn.Module):
    """``act(...)`` of pruned blocks in a row, skips within, padded once at the head of each convolution to come.

    At λ = 0 the blocks are as they were, one after the other; on the way to λ = 1 the two fade into each other. `links`
    are those of the blocks' parts.
    """

    def __init__(self, blocks: Sequence[ProgressiveBlock], links: Sequence[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.links = tuple(links)

    def pieces(self) -> list[list[ProgressiveBlock]]:
        """The blocks of each convolution to come."""
        found: list[list[ProgressiveBlock]] = []
        for block, link in zip(self.blocks, self.links, strict=True):
            if link != JOINED or not found:
                found.append([])
            found[-1].append(cast(ProgressiveBlock, block))
        return found

    def forward(self, x: Tensor) -> Tensor:
        lam = cast(ProgressiveBlock, self.blocks[0]).lam
        return fade(lam, lambda: self._apart(x), lambda: self._together(x, lam))

    def _apart(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def _together(self, x: Tensor, lam: Lambda) -> Tensor:
        for blocks in self.pieces():
            x = run_piece(blocks, x, lam)
        return self._activation()(x)

    def merge(self) -> nn.Sequential:
        """A convolution a piece and the activation, in plain torch modules of the blocks' dtype."""
        dtype = cast(ProgressiveBlock, self.blocks[0]).dtype
        convs = [merge_piece(blocks).to_conv(dtype) for blocks in self.pieces()]
        return nn.Sequential(*convs, copy_activation(self._activation(), inplace=True)).eval()

    def _activation(self) -> nn.Module:
        return cast(ProgressiveBlock, self.blocks[-1]).activation()


def run_piece(blocks: Sequence[ProgressiveBlock], x: Tensor, lam: Lambda = 1.0) -> Tensor:
    """The blocks' chains and skips at λ on ``[N, C, H, W]``, all of the padding at the head of the first."""
    (rows, columns), _ = head_padding([block.padding for block in blocks], [block.stride for block in blocks])
    x = F.pad(x, (columns, columns, rows, rows))
    unpadded = Place((0, 0), (0, 0))
    for block in blocks:
        y = x
        for step in block.steps():
            y = step.run(y, lam, unpadded)
        y = block.drop_path(y)
        # The skip sees the pixels in the middle of what the chain sees.
        skip = block.skip(interior(x, block.padding))
        x = y if skip is None else y + skip
    return x


def merge_piece(blocks: Sequence[ProgressiveBlock]) -> AffineConv:
    """What `run_piece` computes, as one convolution in float64."""
    convs = []
    for block in blocks:
        whole = copy_model(block).double()
        whole.lam = 1.0
        convs.append(AffineConv.from_conv(cast(Any, whole.merge("conv")).body, block.name))
    return compose_chain(move_padding(convs))


def make_segments(model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
    """A copy of `model` with these blocks pruned as their parts say; `bodies` are names and parts as text."""
    parts = {name: Part.parse(text) for name, text in bodies.items()}
    model = to_source(copy_model(model))
    for name, part in parts.items():
        _leave_out(model.get_submodule(name), part.dropped)
    model = make_progressive(model, {name: part.body for name, part in parts.items()})
    runs: list[list[ProgressiveBlock]] = []
    for name, block in progressive_blocks(model).items():
        if parts[name].link == APART:
            runs.append([])
        runs[-1].append(block)
    for blocks in runs:
        first, *others = blocks
        if others or parts[first.name].dropped:
            model.set_submodule(first.name, Segment(blocks, [parts[block.name].link for block in blocks]))
            for block in others:
                model.set_submodule(block.name, nn.Identity())
    return model.train(model.training)


def make_segment(model: nn.Module, bodies: Mapping[str, str]) -> Segment:
    """One segment of these blocks, copied from `model`, by itself: nothing is checked, nothing else is copied."""
    progressive = find_family(model).progressive
    parts = {name: Part.parse(text) for name, text in bodies.items()}
    blocks = []
    for name, part in parts.items():
        block = to_source(copy_model(model.get_submodule(name)))
        _leave_out(block, part.dropped)
        blocks.append(progressive(block, name, part.body))
    return Segment(blocks, [part.link for part in parts.values()])


def _leave_out(block: nn.Module, convs: Sequence[str]) -> None:
    for conv in convs:
        block.set_submodule(conv, passing(cast(nn.Conv2d, block.get_submodule(conv))))


def merge_segments(model: nn.Module) -> nn.Module:
    """A copy of `model` with each segment merged; other blocks stay as they are."""
    model = copy_model(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, Segment):
            model.set_submodule(name, module.merge())
    return model


def passing(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution that gives its input back and does not learn, in the place of one with as many outputs."""
    channels = conv.out_channels
    like = conv.weight
    same = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=like.device, dtype=like.dtype)
    nn.init.ones_(same.weight)
    return same.requires_grad_(False)


def reducible(block: ProgressiveBlock) -> dict[str, nn.Conv2d]:
    """The convolutions of a block's chain that may be left out: as many outputs as inputs, stride 1, no 1x1."""
    convs = {step.name: step.layer for step in block.steps() if isinstance(step, Keep)}
    return {
        name: conv
        for name, conv in convs.items()
        if isinstance(conv, nn.Conv2d)
        and conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.kernel_size != (1, 1)
        and all(2 * pad == size - 1 for pad, size in zip(conv_padding(conv), conv.kernel_size, strict=True))
    }


def is_too_dense(merged: nn.Module, blocks: Iterable[nn.Module]) -> bool:
    """Whether one convolution has so many more weights than the blocks it stands for that it isn't worth timing."""
    return _weights(merged) > DENSEST * sum(map(_weights, blocks))


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def joinable(block: ProgressiveBlock) -> bool:
    """Whether the whole pruned block is one convolution, so that it can be composed with others."""
    return "conv" in block.own_forms and type(block).head is ProgressiveBlock.head


@torch.no_grad()
def neighbours(model: nn.Module, names: Sequence[str], example: Tensor) -> set[str]:
    """Those of `names` whose input is the output of the one before, and nothing else comes between."""
    model = copy_model(model).eval()
    outputs: dict[str, tuple[Tensor, int]] = {}
    found = set()

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = output, output._version

    def compare(before: str, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # An activation that works in place would leave the same tensor in another version.
        output, version = outputs[before]
        if args[0] is output and args[0]._version == version:
            found.add(name)

    for before, name in pairwise(names):
        model.get_submodule(before).register_forward_hook(partial(keep, before))
        model.get_submodule(name).register_forward_pre_hook(partial(compare, before, name))
    model(example)
    return found
