"""`dp`: segments chosen by two dynamic programs over tables (Kim et al., ICML 2023, arXiv 2301.12187).

From the paper: a segment is a run of layers without activations inside. A table has the latency of every run of layers
merged into one, and a first program the best split of a segment into such runs; another table has each segment's
importance, the change of accuracy when its activations are taken out and the network is trained for a short while; a
second program takes the segments of the largest sum of importances within a latency. Then the network is trained
without these activations, and merged.

From the published code (snu-mllab/Efficient-CNN-Depth-Compression): accuracy is of held-out training images; a skip is
folded where a segment holds all of it, and a segment never cuts one in half; importances are lowered by `ALPHA` (1.2 to
1.6 there) times the mean of those of single layers, so that more segments, and so more activations, are worth more;
padding moves to the head of each merged run before training, so that merging is exact.

Ours: what is cut between is whole blocks, because skips and our pruned forms are of blocks: segments have at most three
of them, wherever one follows the other at once, strided ones as well; a block that is kept counts as many segments of
importance 0 as it has layers, where the code trains single layers again from scratch; segments that save nothing by the
tables, and runs that would be one convolution of more than four times their weights, are left out. All entries, and the
network as it is, to which they are compared, share as many steps as UPDP's supernet takes passes, each at most an
epoch. A number of blocks to prune is turned into a latency: what so many blocks save in the mean. AdamW and the
schedule that all methods share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import nn

from updp_rt.blocks import ProgressiveBlock, make_progressive, progressive_blocks
from updp_rt.blocks.steps import Keep, Shrink
from updp_rt.methods.tables import Dropped, SegmentTable, segment_table
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Method
from updp_rt.pruning.programming import Entry, best_cover
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import Candidate, SearchResult

ALPHA = 1.4


class Programmed(Method):
    """Base of methods that choose segments of blocks by dynamic programming, and train them with λ = 1."""

    fades = False

    def passes(self, config: PruneConfig) -> int:
        return 0

    def check(self, model: nn.Module, config: PruneConfig) -> None:
        if config.front:
            raise ValueError(f"the method {self.name} keeps to a latency: give num_pruned or target_speedup")
        super().check(model, config)

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module | None:
        return None

    def bodies(self, run: Run, table: LatencyTable) -> dict[str, str]:
        """The pruned body of each block."""
        return table.choose_bodies(run.names, run.config.body)

    @abstractmethod
    def ways(self, blocks: Sequence[ProgressiveBlock]) -> list[tuple[Dropped, ...]]:
        """The convolutions to leave out of each of these blocks, for every entry of a segment of them."""

    @abstractmethod
    def worth(self, table: SegmentTable) -> tuple[list[float], float]:
        """What each row of a table is worth, and what a layer that is kept is."""

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        segments = segment_table(run, table, self.bodies(run, table), self.ways)
        values, layer = self.worth(segments)
        layers = count_layers(run.model, run.names)
        baseline = [table.blocks[name].baseline_ms for name in run.names]
        entries = [Entry(i, i, ms, layer * layers[i]) for i, ms in enumerate(baseline)]
        entries += [
            Entry(row.first, row.last, row.ms, v, row.key) for row, v in zip(segments.rows, values, strict=True)
        ]
        # Segments are timed by themselves; what they save counts as it does in the model.
        context = table.in_context() or 1.0
        to_save = (table.model_ms - allowed_ms(run.config, table)) / context
        cover = best_cover(len(run.names), entries, sum(baseline) - to_save)
        if cover is None:  # the number of blocks asks for all that can be saved: rounding may refuse it
            fastest = [Entry(e.first, e.last, e.ms, -e.ms, e.key) for e in entries]
            cover = best_cover(len(run.names), fastest, sum(baseline))
        assert cover is not None
        taken = {entry.key for entry in cover}
        bodies = {name: body for row in segments.rows if row.key in taken for name, body in row.bodies.items()}
        if not bodies:
            raise ValueError(f"the method {self.name} finds no block that is faster pruned, by the run's latency table")
        bodies = {name: bodies[name] for name in run.names if name in bodies}
        subnet = self.finish(self.subnet(run.model, bodies)).to(run.device)
        recalibrate(subnet, run.recalibration_batches, together=True)
        accuracy = run.evaluate(subnet, together=True)
        latency = table.model_ms - context * (sum(baseline) - sum(entry.ms for entry in cover))
        chosen = Candidate(blocks=tuple(bodies), accuracy=accuracy, latency_ms=latency)
        run.progress.log(f"{self.name}: {'; '.join(sorted(taken - {''}))}")
        return SearchResult(candidates=[chosen], chosen=chosen, bodies=bodies)

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        """The weights of the baseline; norms are the baseline's own."""


class DP(Programmed):
    """Activations taken out of segments, by importance and latency."""

    name = "dp"

    def ways(self, blocks: Sequence[ProgressiveBlock]) -> list[tuple[Dropped, ...]]:
        return [((),) * len(blocks)]

    def worth(self, table: SegmentTable) -> tuple[list[float], float]:
        changes = changes_of(table)
        singles = [change for row, change in zip(table.rows, changes, strict=True) if row.first == row.last]
        bonus = -ALPHA * sum(singles) / max(1, len(singles))
        return [change + bonus for change in changes], bonus


def changes_of(table: SegmentTable) -> list[float]:
    """Accuracy of each row over that of the model itself, trained for as long."""
    assert table.accuracy is not None
    accuracies = [row.accuracy for row in table.rows if row.accuracy is not None]
    return [accuracy - table.accuracy for accuracy in accuracies]


def allowed_ms(config: PruneConfig, table: LatencyTable) -> float:
    """The latency to keep to: as given, or what the number of blocks saves in the mean, by the table."""
    allowed = config.allowed_ms(table.model_ms)
    if allowed is not None:
        return allowed
    assert config.num_pruned is not None
    bodies = table.choose_bodies(table.blocks, config.body)
    saved = [max(0.0, table.blocks[name].saved_ms(body)) for name, body in bodies.items()]
    return table.model_ms - (table.in_context() or 1.0) * config.num_pruned * sum(saved) / len(saved)


def count_layers(model: nn.Module, names: Sequence[str]) -> list[int]:
    """Convolutions and linear layers in the chain of each block."""
    layers = []
    blocks = progressive_blocks(make_progressive(model, names))
    for name in names:
        steps = [step for step in blocks[name].steps() if isinstance(step, Shrink | Keep)]
        layers.append(sum(isinstance(step, Shrink) or isinstance(step.layer, nn.Module) for step in steps))
    return layers
