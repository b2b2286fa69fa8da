"""`layer-folding`: activations fade into identities where the data lets them (Dror, Zehngut, Raviv et al., BMVC 2022).

From the paper: an activation becomes ``α·x + (1 - α)·σ(x)``, and a term pulls every α to 1; where α comes near it, the
activation is removed and the layers on both sides fold into one; then the folded network is trained on.

From the published code (LayerFolding/Layer-Folding): α from 0, kept at 0 or above after each step; the term is ``λ·Σ
|1 - α²|`` with λ = 0.25; α of 0.9 counts as removed. Folding keeps the weights that α was trained with.

Ours: one α a block, over all that our pruned form changes, because only a whole block merges; the number of blocks is
given, so the largest α are taken, and the log says how many reached 0.9; all others go back to 0; α learns `RATE` times
as fast as weights; AdamW and the schedule that all methods share; padding at the head of a chain, so that folding is
exact, where the published code pads each convolution and leaves the border to further training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from updp_rt.blocks import progressive_blocks
from updp_rt.methods.gates import PARAMETER, Gated, SoftGate, clamp_gates, gate_values
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import SUPERNET, Run
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.trainer import Losses

PULL = 0.25
FOLDED = 0.9


class LayerFolding(Gated):
    """Activations faded by a learnt α."""

    name = "layer-folding"

    def chooser_losses(self, run: Run, table: LatencyTable) -> Losses:
        return soft_gate_losses(run.config.label_smoothing)

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        assert chooser is not None
        folded = sum(float(value.detach()) >= FOLDED for value in gate_values(chooser).values())
        run.progress.log(f"{folded} of {len(run.names)} blocks have an α of {FOLDED} or more")
        return super().choose(run, table, chooser)

    def prepare(self, run: Run, subnet: nn.Module) -> None:
        subnet.load_state_dict(folded_state(load_file(run.folder / SUPERNET), subnet, run.names))


def soft_gate_losses(label_smoothing: float = 0.0) -> Losses:
    """Cross entropy through the gates, and what pulls each of them open."""

    def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
        clamp_gates(model, None)
        values = gate_values(model)
        for name, block in progressive_blocks(model).items():
            block.lam = SoftGate(values[name])
        loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        for value in values.values():
            loss = loss + PULL * (1 - value.square()).abs()
        yield loss

    return losses


def folded_state(trained: Mapping[str, Tensor], subnet: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """The weights of the trained chooser under `subnet`'s names, in which only the chosen blocks are progressive."""
    chosen = progressive_blocks(subnet)
    state = {}
    for key, value in trained.items():
        name = next((name for name in names if key.startswith(f"{name}.")), None)
        if name is None or name in chosen:
            state[key] = value
        elif key.startswith(f"{name}.block."):
            state[f"{name}.{key.removeprefix(f'{name}.block.')}"] = value
    return {key: value for key, value in state.items() if not key.endswith(f".{PARAMETER}")}
