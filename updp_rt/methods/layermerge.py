"""`layermerge`: as `dp`, and convolutions may be left out (Kim, El Halabi, Ji and Oh, ICML 2024, arXiv 2406.12837).

From the paper: within a segment any convolution that keeps its input's shape may be left out as well, so that the
merged kernel stays small; the table has one entry for each kernel size that a segment can reach, and the program takes
segments and sizes together.

From the published code (snu-mllab/LayerMerge): of all ways to reach a size the one that keeps the largest sum of
absolute weights stands for it; an entry is worth ``exp(Δ)``, Δ being its change of accuracy, so that each segment
counts about 1 and more of them are worth more; an activation ends each segment.

Ours: all that is ours in `dp`; a kept layer is worth ``exp(0)``; a convolution that is left out leaves its norm; our
own way to a small kernel, the second convolution of a ResNet's block shrunk to its centre, is not used. The paper is of
CNNs, and so is this: a model in which no convolution can be left out is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations, product

from torch import nn

from updp_rt.blocks import (
    ProgressiveBlock,
    UnsupportedModelError,
    make_progressive,
    progressive_blocks,
    prunable_blocks,
)
from updp_rt.blocks.segments import reducible
from updp_rt.blocks.steps import Keep
from updp_rt.methods.dp import Programmed, changes_of
from updp_rt.methods.tables import Dropped, SegmentTable
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run

BODY = "full"  # every family has it, and in it all convolutions as they are


class LayerMerge(Programmed):
    """Activations and convolutions taken out of segments, by importance and latency."""

    name = "layermerge"

    def names(self, model: nn.Module) -> list[str]:
        names = prunable_blocks(model)
        blocks = progressive_blocks(make_progressive(model, dict.fromkeys(names, BODY)))
        if not any(reducible(block) for block in blocks.values()):
            raise UnsupportedModelError(
                f"the method {self.name} leaves out convolutions, and this model's blocks have none that keeps its "
                "input's shape: give a ResNet, MobileNetV2 or ConvNeXt"
            )
        return names

    def bodies(self, run: Run, table: LatencyTable) -> dict[str, str]:
        return dict.fromkeys(run.names, BODY)

    def ways(self, blocks: Sequence[ProgressiveBlock]) -> list[tuple[Dropped, ...]]:
        best: dict[tuple[int, int], tuple[float, tuple[Dropped, ...]]] = {}
        for dropped in product(*(subsets(list(reducible(block))) for block in blocks)):
            size = reached_size(blocks, dropped)
            kept = sum(
                float(conv.weight.detach().abs().sum())
                for block, left in zip(blocks, dropped, strict=True)
                for name, conv in reducible(block).items()
                if name not in left
            )
            if size not in best or kept > best[size][0]:
                best[size] = kept, dropped
        return [dropped for _, dropped in best.values()]

    def worth(self, table: SegmentTable) -> tuple[list[float], float]:
        return [math.exp(change) for change in changes_of(table)], 1.0


def subsets(names: Sequence[str]) -> list[Dropped]:
    return list(chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)))


def reached_size(blocks: Sequence[ProgressiveBlock], dropped: Sequence[Dropped]) -> tuple[int, int]:
    """The kernel of the blocks as one convolution, without those of theirs that are left out."""
    size, jump = [1, 1], [1, 1]
    for block, left in zip(blocks, dropped, strict=True):
        for step in block.steps():
            if isinstance(step, Keep) and isinstance(step.layer, nn.Conv2d) and step.name not in left:
                for axis in (0, 1):
                    size[axis] += (step.layer.kernel_size[axis] - 1) * jump[axis]
                    jump[axis] *= step.layer.stride[axis]
    return size[0], size[1]
