"""`depthshrinker`: hard gates choose the blocks that lose their activations (Fu et al., ICML 2022, arXiv 2206.00843).

From the paper: a learnable mask a block, of which a fixed number is kept; straight-through gradients; a latency term;
the chosen network is trained again from the pretrained weights, perhaps distilled from the baseline (`distill`), and
each pruned block becomes one convolution.

From the published code (facebookresearch/DepthShrinker): one number a block, from 0, held in [0, 1]; before every step
the blocks are ranked by it, the highest are pruned; its gradient is ``<dL/dy, new - old>`` for kept and pruned blocks
alike; the term is ``1e-4 · Σ (ms saved)·s``, which as published makes blocks worth keeping the more they would save:
`PUBLISHED_SIGN` has that, by default the sign is the other; an activation after the skip closes a pruned block.

Ours: AdamW and the schedule that all methods share; gates `RATE` times as fast; ties drawn by the seed; the gate lies
over all that our pruned form changes, with norms of its own and padding at the head, because that merges exactly, where
the published code puts a random convolution in the block's place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.blocks import progressive_blocks
from updp_rt.methods.gates import Gated, HardGate, clamp_gates, furthest_open, gate_values
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import Run
from updp_rt.pruning.trainer import Losses

LATENCY_WEIGHT = 1e-4  # of a millisecond
PUBLISHED_SIGN = False


class DepthShrinker(Gated):
    """Activations removed behind hard gates."""

    name = "depthshrinker"
    counts = True

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        config = run.config
        assert config.num_pruned is not None
        bodies = table.choose_bodies(run.names, config.body)
        saved = {name: table.blocks[name].saved_ms(body) for name, body in bodies.items()}
        return hard_gate_losses(saved, config.num_pruned, config.seed, config.label_smoothing)


def hard_gate_losses(saved_ms: dict[str, float], count: int, seed: int, label_smoothing: float = 0.0) -> Losses:
    """Cross entropy with the `count` blocks of the highest gates pruned, and what the gates are worth in latency."""
    sign = 1.0 if PUBLISHED_SIGN else -1.0

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        clamp_gates(model)
        values = gate_values(model)
        pruned = set(furthest_open({name: float(value.detach()) for name, value in values.items()}, count, seed))
        for name, block in progressive_blocks(model).items():
            block.lam = HardGate(values[name], pruned=name in pruned)
        loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        for name, value in values.items():
            loss = loss + sign * LATENCY_WEIGHT * saved_ms[name] * value
        yield loss

    return losses
