"""``prune_channels``: from a model to a narrower one, and what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from updp_rt.blocks import count_costs
from updp_rt.blocks.inspect import Cost, architecture
from updp_rt.channels.atoms import Bools
from updp_rt.channels.coupling import choose_coupling
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.export import check_equal, export_model, mask_model
from updp_rt.channels.graph import WRITTEN
from updp_rt.channels.importance import Scores, score_inputs
from updp_rt.channels.layout import Layout, Masks, check_masks, find_alive
from updp_rt.channels.masks import choose_masks
from updp_rt.channels.order import find_order
from updp_rt.channels.plan import STRATEGIES, Choice, Copies, choose, choose_naive, count_copies
from updp_rt.channels.trace import Trace, trace

EXPORTS = (*STRATEGIES, "naive")


@dataclass(frozen=True)
class LayerReport:
    """One layer that reads channels: how many there were, how many it keeps and reads now, and by what means.

    `read` exceeds `kept` where a range is read with zeros between. `how` is ``all``, ``view``, ``gather`` or
    ``concatenation`` (of fewer channels, in the place of the model's own). `at` is the module that selects.
    """

    name: str
    inputs: int
    kept: int
    read: int
    how: str
    at: str


@dataclass(frozen=True)
class ChannelResult:
    """A model with fewer channels, and what was done to it.

    Attributes:
        model: the exported model.
        masks: for every prunable layer the inputs it keeps, ``[in_channels]`` bool, as numpy arrays.
        layers: one report for each of them, in the order in which they run.
        naive: channels copied by the naive export of the same masks: one gather at each layer that does not keep all
            that is there.
        copies: channels copied by `model`.
        optimum: the fewest channels that must be gathered if reordering is all that is done, where known.
        cost, pruned_cost: parameters, and multiply-accumulates for one image, before and after.
        error: largest relative difference in float64 from the masked model, on the example.
        notes: a line for each operator that ends a segment, and for whatever else was not done as asked.
    """

    model: nn.Module
    masks: dict[str, Bools]
    layers: list[LayerReport]
    naive: Copies
    copies: Copies
    optimum: int | None
    cost: Cost
    pruned_cost: Cost
    error: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model and the masks, as JSON takes it."""
        plain = ("naive", "copies", "cost", "pruned_cost")
        return {
            "architecture": architecture(self.model),
            "layers": [asdict(layer) for layer in self.layers],
            **{name: asdict(getattr(self, name)) for name in plain},
            "optimum": self.optimum,
            "error": self.error,
            "notes": list(self.notes),
        }


def prune_channels(
    model: nn.Module,
    example_input: Tensor,
    amount: float = 0.5,
    importance: str = "lamp",
    *,
    scope: str = "global",
    constrained: bool = False,
    limits: Mapping[str, float] | None = None,
    images: Tensor | Iterable[Tensor] | None = None,
    masks: Masks | None = None,
    copies: str = "cheapest",
) -> ChannelResult:
    """Remove channels from `model`, each layer keeping the inputs it wants (Wan et al., ICML 2023, arXiv 2307.08771).

    Channels that no layer reads any more are removed; the others are reordered, so that as many layers as possible read
    a range of their input, as a view. The result is the same modules, smaller, some of which first take a part of their
    input; it computes what `model` computes with weights of zero at the dropped inputs, which is checked in float64.

    Args:
        model: any model that torch.export follows, on any device; it is not changed.
        example_input: images ``[N, C, H, W]`` as they will be served; copies are weighed against arithmetic for them.
        amount: share to remove: of the model's parameters (``global``), or of every layer's inputs (``local``).
        importance: ``magnitude``, ``lamp``, ``fpgm`` or ``hrank`` (which needs `images`).
        scope: ``global``: whatever loses least score per parameter goes first, in whichever layer; or ``local``.
        constrained: layers that read a channel keep or drop it together, as pruners in common use do.
        limits: largest share of its inputs that a layer may lose, by pattern of layer names; under ``global`` 0.9 for
            layers that no pattern matches.
        images: batches of training data, a few images in all, on which ``hrank`` takes ranks. Given them, layers that
            are free under ``global`` drop together all the same if that changes the outputs less, which a note tells.
        masks: inputs that each layer keeps, bool ``[in_channels]`` by module name, instead of `amount` and the rest.
        copies: ``cheapest``: what a layer keeps is gathered where that takes less time than reading more with zeros.
            ``fewest``: no gather where a range, or a concatenation of fewer channels, can stand in its place, at the
            price of more arithmetic. ``naive``: no reordering, a gather wherever something is dropped; to compare with.

    Raises:
        ChannelError: torch.export cannot follow the model, no layer can be pruned, a setting makes no sense, or the
            exported model would not compute the same.
    """
    if copies not in EXPORTS:
        raise ChannelError(f"unknown copies {copies!r}: choose among {', '.join(EXPORTS)}")
    if any(hasattr(module, "fusion") for module in model.modules()):
        raise ChannelError("an accelerated model cannot be pruned: updp_rt.restore it, prune, and accelerate again")
    batches = [images] if isinstance(images, Tensor) else list(images or ())
    found = trace(model, example_input)
    scores: Scores = {}
    if masks is None:
        scores = score_inputs(model, found, importance, batches)
    else:
        check_masks(found, masks)
    closed: list[str] = []
    failures: tuple[str, ...] = ()
    while True:
        if not found.prunable:
            why = "; ".join((*failures, *found.notes[:3])) or "it has no two layers in a row"
            raise ChannelError(f"no layer of this {type(model).__name__} reads channels that can be removed: {why}")
        notes: tuple[str, ...] = ()
        if masks is None:
            if batches and scope == "global" and not constrained:
                chosen, notes = choose_coupling(model, found, scores, amount, batches, limits=limits)
            else:
                chosen = choose_masks(found, scores, amount, scope=scope, constrained=constrained, limits=limits)
        else:
            chosen = {name: mask for name, mask in masks.items() if not closed or name in found.prunable}
            notes = tuple(f"{name}: keeps all its inputs, whatever its mask" for name in masks if name not in chosen)
        try:
            return _export(model, found, chosen, copies, example_input, (*failures, *notes))
        except ChannelError as error:
            # What the code has written out shows only when it runs: keep more and more of it.
            kind = next((kind for kind in WRITTEN if not found.written[kind] <= found.closed.keys()), None)
            if kind is None:
                raise
            failures += (f"{WRITTEN[kind]} all stay; without that, {error}",)
            closed.append(kind)
        found = trace(model, example_input, close=closed)


def _export(
    model: nn.Module, found: Trace, masks: Masks, copies: str, example: Tensor, notes: Sequence[str]
) -> ChannelResult:
    alive = find_alive(found, masks)
    plain = Layout(alive)
    naive = choose_naive(found, masks, plain)
    order = find_order(found, masks, alive)
    layout = plain if copies == "naive" else Layout(alive, order.occupant)
    chosen = naive if copies == "naive" else choose(found, masks, layout, copies)
    pruned = export_model(model, found, masks, layout, chosen)
    error = check_equal(mask_model(model, masks), pruned, example)
    channels, height, width = example.shape[1:]
    return ChannelResult(
        model=pruned,
        masks={name: np.array(mask) for name, mask in masks.items()},
        layers=[_report(name, masks[name], chosen[name]) for name in found.consumers if name in masks],
        naive=count_copies(found, plain, naive),
        copies=count_copies(found, layout, chosen),
        optimum=order.left if order.exact else None,
        cost=count_costs(model, (channels, height, width))[0],
        pruned_cost=count_costs(pruned, (channels, height, width))[0],
        error=error,
        notes=(*found.notes, *notes),
    )


def _report(name: str, mask: Bools, choice: Choice) -> LayerReport:
    kind = "all" if choice.selection is None else choice.selection.kind
    how = "concatenation" if kind == "parts" else kind
    return LayerReport(name, len(mask), int(mask.sum()), len(choice.positions), how, choice.link.module)
