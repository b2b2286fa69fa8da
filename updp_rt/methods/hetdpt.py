"""`hetdpt`: attentions and GELUs are cut one after the other, by gates (HetDPT, OpenReview 71P7ZaKnaO).

From the paper: depth is pruned at two finer grains, the attention and the GELU of a block; an MLP without GELU merges
into one linear layer; the network is trained on afterwards.

From the published code (Efficient-AI-for-All/HetDPT): a number m from 0 and a flag for each attention and each GELU;
the output is the part's or its input, and m's gradient is ``<dL/dy, f(x) - x>`` for both; training goes in stages of
3, 5, 7 and so on parts of the time, and at the end of each the part of the smallest m is cut for good, a GELU and an
attention in turn. A block without attention is ``x + LN(x)``; one without GELU keeps its LayerNorm, and its skip.

Ours: all parts may be cut, not those of lists found before; m learns `RATE` times as fast as weights; training goes on
with the weights that the parts were chosen with, at the schedule and with the targets that all methods share; a block
that loses both gets no GELU at its end, which the code adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt.blocks import MergeOrigin
from updp_rt.methods.attention import GatedPart, merge_linear, parts, put_attention, transformer_blocks
from updp_rt.methods.drop import judge_one
from updp_rt.methods.gates import RATE, HardGate
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Replacing
from updp_rt.pruning.run import SUPERNET, Run
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.trainer import Losses

BODIES = {"attn": "none", "mlp.act": "linear"}


class HetDPT(Replacing):
    """Attentions and GELUs cut one at a time; ``num_pruned`` counts both."""

    name = "hetdpt"
    counts = True

    def passes(self, config: PruneConfig) -> int:
        return 1

    def names(self, model: nn.Module) -> list[str]:
        return parts(transformer_blocks(self.name, model))

    def chooser(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        names = self.names(model)
        model = to_source(copy_model(model))
        for name in names:
            model.set_submodule(name, GatedPart(model.get_submodule(name)))
        return model

    def prepare_chooser(self, run: Run, chooser: nn.Module) -> None:
        return

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        config = run.config
        assert config.num_pruned is not None
        return cutting_losses(config.num_pruned, run.steps(config.supernet_epochs), config.label_smoothing)

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        assert chooser is not None
        assert run.config.num_pruned is not None
        cut_parts(chooser, run.config.num_pruned)  # all of them, where there was no training
        gone = [name for name, part in gated_parts(chooser).items() if part.cut]
        bodies = {name: BODIES["attn" if name.endswith(".attn") else "mlp.act"] for name in gone}
        subnet = self.subnet(run.model, bodies)
        self.prepare(run, subnet)
        return judge_one(run, subnet, bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        model = to_source(copy_model(model))
        for name in bodies:
            if name.endswith(".attn"):
                put_attention(model, name.removesuffix(".attn"))
            else:
                model.set_submodule(name, nn.Identity())
        return model

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        trained = {key.replace(".inner.", "."): value for key, value in load_file(run.folder / SUPERNET).items()}
        subnet.load_state_dict({key: trained[key] for key in subnet.state_dict()})

    def merge(self, subnet: nn.Module, choose_forms: Callable[[dict[str, str]], dict[str, str]]) -> nn.Module:
        merged = copy_model(subnet).eval()
        for name, module in list(merged.named_modules()):
            if name.endswith(".mlp") and type(getattr(module, "act", None)) is nn.Identity:
                merged.set_submodule(name, merge_linear(module))
        return merged

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        return {name: MergeOrigin(body, "NoAttention" if body == "none" else "Linear") for name, body in bodies.items()}


def gated_parts(model: nn.Module) -> dict[str, GatedPart]:
    """The parts of a chooser that can be cut, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GatedPart)}


def due(share: float, count: int) -> int:
    """How many of `count` parts are cut after a share of the training: stages last 3, 5, 7 ... parts of it."""
    whole = (count + 1) ** 2 - 1
    return max(k for k in range(count + 1) if (k + 1) ** 2 - 1 <= share * whole + 1e-9)


@torch.no_grad()
def cut_parts(model: nn.Module, count: int) -> None:
    """Cut parts until `count` are: a GELU and an attention in turn, each time the one of the smallest gate."""
    found = gated_parts(model)
    while (gone := sum(bool(part.cut) for part in found.values())) < count:
        left = {name: part for name, part in found.items() if not part.cut}
        turn = {name: part for name, part in left.items() if name.endswith(".attn") == bool(gone % 2)} or left
        turn[min(turn, key=lambda name: float(turn[name].gate.detach()))].cut.fill_(True)
    for part in found.values():
        part.lam = float(part.cut)


def cutting_losses(count: int, steps: int, label_smoothing: float = 0.0) -> Losses:
    """Cross entropy while `count` parts are cut over `steps`, their gates learning what each gives."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        cut_parts(model, due(step / max(1, steps), count))
        for part in gated_parts(model).values():
            part.lam = HardGate(-RATE * part.gate, pruned=bool(part.cut))
        yield F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)

    return losses
