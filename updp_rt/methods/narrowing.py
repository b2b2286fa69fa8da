"""The base of methods that leave out heads and hidden units of transformer blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from safetensors.torch import load_file
from torch import nn

from updp_rt.blocks import MergeOrigin
from updp_rt.methods.attention import transformer_blocks
from updp_rt.methods.drop import judge_one
from updp_rt.methods.units import (
    Budget,
    Masks,
    UnitGate,
    find_budget,
    find_gates,
    find_parts,
    narrowed,
    put_gates,
    read_kept,
    write_kept,
)
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.goals import check_num_pruned
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Replacing, need_number
from updp_rt.pruning.run import SUPERNET, Run
from updp_rt.pruning.search import SearchResult


class Narrowing(Replacing):
    """Gates are trained, units chosen by them, and what is left is trained on behind masks that no longer change.

    A method says what its gates are and what they are trained by, and `masks` which units stay. What is trained on has
    the weights that the units were chosen with; it runs dense, units left out multiplied by 0, and is compacted at the
    end. ``num_pruned`` counts blocks all the same (see `updp_rt.methods.units`).

    Attributes:
        gate: the kind of gate.
    """

    gate: ClassVar[type[UnitGate]] = UnitGate

    def passes(self, config: PruneConfig) -> int:
        return 1

    def check(self, model: nn.Module, config: PruneConfig) -> None:
        need_number(self.name, config)
        check_num_pruned(transformer_blocks(self.name, model), config.num_pruned)

    def names(self, model: nn.Module) -> list[str]:
        return list(find_parts(self.name, model))

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        return put_gates(model, find_parts(self.name, model), self.gate)

    def prepare_chooser(self, run: Run, chooser: nn.Module) -> None:
        return

    def budget(self, run: Run) -> Budget:
        """What a run's model has to lose."""
        assert run.config.num_pruned is not None
        return find_budget(self.name, run.model, run.config.num_pruned, run.input_size)

    def masks(self, run: Run, chooser: nn.Module, budget: Budget) -> Masks:
        """The units of each part that stay, ``[units]`` bool, by the trained chooser."""
        raise NotImplementedError

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        assert chooser is not None
        masks = self.masks(run, chooser, self.budget(run))
        bodies = {part: write_kept(kept) for part, kept in masks.items() if not kept.all()}
        subnet = self.subnet(run.model, bodies)
        self.prepare(run, subnet)
        return judge_one(run, narrowed(subnet), bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        parts = find_parts(self.name, model)
        subnet = put_gates(model, {part: parts[part] for part in bodies})
        for part, gate in find_gates(subnet).items():
            gate.kept.copy_(read_kept(bodies[part], parts[part]))
        return subnet

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        trained = {key.replace(".inner.", "."): value for key, value in load_file(run.folder / SUPERNET).items()}
        own = subnet.state_dict()
        state = {key: trained[key.replace(".inner.", ".")] for key in own if not key.endswith(".kept")}
        subnet.load_state_dict({**own, **state})

    def merge(self, subnet: nn.Module, choose_forms: Callable[[dict[str, str]], dict[str, str]]) -> nn.Module:
        return narrowed(subnet)

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        left = find_parts(self.name, merged)
        return {part: MergeOrigin("narrowed", f"{left[part]} kept") for part in bodies}
