"""How a model is pruned: what decides, what is trained, what is merged. UPDP, and the seam that its rivals fit into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from updp_rt._copies import copy_model
from updp_rt.blocks import (
    MergeOrigin,
    make_progressive,
    merge_model,
    progressive_blocks,
    prunable_blocks,
    set_lambda,
    take_bodies,
)
from updp_rt.blocks.segments import make_segments, merge_segments
from updp_rt.pruning.config import ANY, PruneConfig, Stage, first_stage
from updp_rt.pruning.genes import Genes, Segments, bodies_of, genes_of
from updp_rt.pruning.goals import check_num_pruned
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.noise import Hits
from updp_rt.pruning.progressive import SHORT, SHORT_RAMP, progressive_losses
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.search import SearchResult, search_blocks
from updp_rt.pruning.supernet import FEW, calibrate, sandwich_losses
from updp_rt.pruning.trainer import Losses

if TYPE_CHECKING:
    from updp_rt.pruning.run import Run

CALIBRATION_IMAGES = 512
JOURNAL = "search.journal"


class Method:
    """UPDP; a rival overrides what it does otherwise.

    The stages call a method in this order. All around it is theirs and the same for every method: data, start weights,
    budget, seeds, checkpoints, resuming, folders, the latency table, figures.

    - supernet: `chooser` makes what is trained so that blocks can be chosen, `prepare_chooser` gives it its start, and
      `chooser_losses` say how it is trained; None where a method trains nothing for that.
    - search: `choose` says which blocks, and which pruned body each takes.
    - train: `subnet` makes the pruned model, `prepare` gives it its start, and `losses` say how it is trained.
    - merge: `merge` makes plain torch modules of it, which compute the same.

    Attributes:
        name: in settings and on the command line.
        fades: whether λ rises from 0 to 1 while the subnet is trained; otherwise it is 1 from the start, and the rate
            falls from the start too.
        trains: whether the subnet is trained at all.
        counts: whether what it chooses by is trained for a number of blocks, and so is another one for another number.
        predicts: whether latencies are by the run's table; otherwise that of the one that it chose is measured.
    """

    name: ClassVar[str] = "updp"
    fades: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    counts: ClassVar[bool] = False
    predicts: ClassVar[bool] = True

    @property
    def searches(self) -> bool:
        """Whether it chooses by a search that several processes can share: UPDP's own."""
        return type(self).choose is Method.choose

    def first_stage(self, setting: str) -> Stage:
        """The first stage whose result depends on a setting, or on anything else that a run is known by."""
        return "supernet" if self.counts and setting == "num_pruned" else first_stage(setting)

    def spares_supernet(self, config: PruneConfig, epoch_steps: int) -> bool:
        """Whether the subnet is trained for so few steps that UPDP's supernet is better left as it is fitted."""
        return self.searches and config.epochs * epoch_steps < FEW

    def fill(self, config: PruneConfig, epoch_steps: int) -> PruneConfig:
        """`config` with what was left to the steps at hand: whether the supernet is trained, how fast λ rises."""
        left: dict[str, float] = {}
        if self.spares_supernet(config, epoch_steps):
            left["supernet_epochs"] = 0
        if config.epochs * epoch_steps < SHORT:
            left["ramp"] = SHORT_RAMP
        given = config.model_fields_set
        return config.model_copy(update={name: value for name, value in left.items() if name not in given})

    def passes(self, config: PruneConfig) -> int:
        """How often a step of the chooser runs a model forward and back: budgets are compared by it."""
        return 2 + config.random_subnets

    def check(self, model: nn.Module, config: PruneConfig) -> None:
        """Raise `ValueError` where the method cannot do what is asked, before anything is trained."""
        if config.search != "auto" and not self.searches:
            raise ValueError(f"the method {self.name} chooses blocks in its own way: leave out search (--search)")
        if config.body == ANY and not self.searches:
            raise ValueError(f"the method {self.name} has no search that could choose bodies: leave out body (--set)")
        check_num_pruned(self.names(model), config.num_pruned)

    def names(self, model: nn.Module) -> list[str]:
        """The blocks that the method can prune; raises `UnsupportedModelError` where there are none."""
        return prunable_blocks(model)

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module | None:
        """A copy of `model` to choose by, once it is trained; `bodies` of all prunable blocks."""
        return make_progressive(model, bodies)

    def prepare_chooser(self, run: Run, chooser: nn.Module) -> None:
        """Give `chooser` the weights that training starts from, in place."""
        calibrate(chooser, run.training_images(CALIBRATION_IMAGES))

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        config = run.config
        segments = [tuple(parts) for parts in table.offer_segments(config.body).values()]
        return sandwich_losses(config.seed, config.random_subnets, config.label_smoothing, segments)

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        """The candidates that were looked at, and the one chosen. Every process of a run calls it."""
        config, supernet = run.config, chooser
        assert supernet is not None
        offered, segments = table.offer_bodies(run.names, config.body), table.offer_segments(config.body)

        def judge(genes: Genes) -> Hits:
            bodies = bodies_of(genes, offered, segments)
            # What is not pruned leads to its first body: even that changes the rounding.
            take_bodies(supernet, {name: bodies.get(name, first) for name, (first, *_) in offered.items()})
            set_lambda(supernet, 1.0, bodies)
            recalibrate(supernet, run.recalibration_batches)
            return run.judge(supernet)

        candidates, chosen, signal = search_blocks(
            genes_of(offered, segments),
            judge,
            partial(estimate_ms, table, offered, segments),
            storage=run.study,
            trials=config.trials,
            seed=config.seed,
            engine=None if config.search == "auto" else config.search,
            num_pruned=config.num_pruned,
            max_latency_ms=config.allowed_ms(table.model_ms),
            progress=run.progress,
        )
        if signal is not None:
            run.progress.log(f"search: {signal.words()}")
        bodies = bodies_of(chosen.blocks, offered, segments)
        return SearchResult(candidates=candidates, chosen=chosen, bodies=bodies, signal=signal)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        """A copy of `model` with these blocks pruned, of `model`'s weights: its structure is what counts."""
        return make_segments(model, bodies)

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        """Give `subnet` the weights that training starts from, in place."""
        calibrate(subnet, run.training_images(CALIBRATION_IMAGES))

    def losses(self, run: Run, ramp: int, trace: list[tuple[int, float]]) -> Losses:
        """How the subnet is trained; `ramp` steps are those in which λ rises, and `trace` takes it."""
        config = run.config
        return progressive_losses(
            ramp,
            config.schedule,
            teacher=run.model.to(run.device).eval() if config.distill > 0 else None,
            distill=config.distill,
            label_smoothing=config.label_smoothing,
            trace=trace,
        )

    def finish(self, subnet: nn.Module) -> nn.Module:
        """`subnet` itself, at the end of what fades in it."""
        set_lambda(subnet, 1.0)
        return subnet

    def merge(self, subnet: nn.Module, choose_forms: Callable[[dict[str, str]], dict[str, str]]) -> nn.Module:
        """`subnet` as plain torch modules; `choose_forms` gives each block's merged form from its pruned body."""
        merged = merge_segments(subnet)
        bodies = {name: block.body for name, block in progressive_blocks(merged).items()}
        return merge_model(merged, choose_forms(bodies))

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        """What each pruned block of `merged` was made from."""

        def form(module: nn.Module) -> str:
            origin = getattr(module, "origin", None)
            if isinstance(origin, MergeOrigin):
                return origin.form
            return "joined" if isinstance(module, nn.Identity) else "conv"

        return {name: MergeOrigin(body, form(merged.get_submodule(name))) for name, body in bodies.items()}


class Replacing(Method):
    """Base of methods that put another plain layer in a block's place: nothing is merged afterwards."""

    fades = False
    predicts = False

    def passes(self, config: PruneConfig) -> int:
        return 0

    def check(self, model: nn.Module, config: PruneConfig) -> None:
        need_number(self.name, config)
        super().check(model, config)

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module | None:
        return None

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        return

    def merge(self, subnet: nn.Module, choose_forms: Callable[[dict[str, str]], dict[str, str]]) -> nn.Module:
        return copy_model(subnet).eval()

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        return {name: MergeOrigin(body, type(merged.get_submodule(name)).__name__) for name, body in bodies.items()}


def estimate_ms(table: LatencyTable, offered: Mapping[str, Sequence[str]], segments: Segments, genes: Genes) -> float:
    """Latency of a model with these blocks merged, by the table."""
    return table.estimate_ms(bodies_of(genes, offered, segments))


def need_number(name: str, config: PruneConfig) -> None:
    """Raise `ValueError` where a method that takes a number of blocks is given another goal."""
    if config.num_pruned is None:
        raise ValueError(f"the method {name} prunes a number of blocks: give num_pruned (--num-pruned) as its goal")


METHODS: dict[str, Method] = {Method.name: Method()}


def find_method(name: str) -> Method:
    """The method of a name; raises `ValueError` with the names there are."""
    if name not in METHODS:
        raise ValueError(
            f"no method {name!r}; choose one of {', '.join(METHODS)}"
            + ("" if len(METHODS) > 1 else " (import updp_rt.methods adds the rivals)")
        )
    return METHODS[name]


def register(method: Method) -> None:
    """Let runs use `method` by its name."""
    METHODS[method.name] = method
