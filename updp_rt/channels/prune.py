"""``prune_channels``: from a model to a narrower one, and what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from updp_rt._copies import copy_model
from updp_rt._marks import source_type
from updp_rt.blocks.inspect import Cost, architecture
from updp_rt.channels.atoms import Bools
from updp_rt.channels.check import allows_float64, check_equal
from updp_rt.channels.coupling import choose_coupling
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.export import export_model, mask_model
from updp_rt.channels.graph import WRITTEN
from updp_rt.channels.importance import Scores, check_measure, score_inputs
from updp_rt.channels.inputs import Inputs, count_images, tensors
from updp_rt.channels.layout import Layout, Masks, check_masks, find_alive
from updp_rt.channels.masks import check_budget, choose_masks
from updp_rt.channels.order import find_order
from updp_rt.channels.plan import STRATEGIES, Choice, Copies, choose, choose_naive, count_copies
from updp_rt.channels.trace import Trace, trace
from updp_rt.channels.widths import read_widths, tell_widths

# What computes something else in training; a model without any is the same in both modes.
_OTHER_IN_TRAINING = (_NormBase, _DropoutNd)

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
        error: largest relative difference from the masked model, on the example.
        precision: the dtype in which that was found: float64, or the model's own where it does not run in that.
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
    precision: str
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
            "precision": self.precision,
            "notes": list(self.notes),
        }


def prune_channels(
    model: nn.Module,
    example_input: Inputs,
    amount: float = 0.5,
    importance: str = "lamp",
    *,
    scope: str = "global",
    constrained: bool = False,
    limits: Mapping[str, float] | None = None,
    images: Tensor | dict[str, Any] | Iterable[Inputs] | None = None,
    masks: Masks | None = None,
    copies: str = "cheapest",
) -> ChannelResult:
    """Remove channels from `model`, each layer keeping the inputs it wants (Wan et al., ICML 2023, arXiv 2307.08771).

    Channels that no layer reads any more are removed; the others are reordered, so that as many layers as possible read
    a range of their input, as a view. The result is the same modules, smaller, some of which first take a part of their
    input; it computes what `model` computes with weights of zero at the dropped inputs, which is checked in float64, or
    in the model's own dtype if it does not run in float64.

    Args:
        model: any model that torch.export follows, in eval mode, on any device; it is not changed.
        example_input: images ``[N, C, H, W]`` as they will be served, or whatever else the model takes: any tensor, a
            dictionary that holds tensors, or a tuple of all arguments. Copies are weighed against arithmetic for it.
        amount: share to remove: of the model's parameters (``global``), or of every layer's inputs (``local``).
        importance: ``magnitude``, ``lamp``, ``fpgm`` or ``hrank`` (which needs `images`).
        scope: ``global``: whatever loses least score per parameter goes first, in whichever layer; or ``local``.
        constrained: layers that read a channel keep or drop it together, as in most other pruners.
        limits: largest share of its inputs that a layer may lose, by pattern of layer names; under ``global`` 0.9 for
            layers that no pattern matches.
        images: batches of training data, a few images in all, on which ``hrank`` takes ranks. Given them, layers that
            are free under ``global`` still drop together if that changes the outputs less; a note says so.
        masks: inputs that each layer keeps, bool ``[in_channels]`` by module name, instead of `amount` and the rest.
        copies: ``cheapest``: what a layer keeps is gathered where that takes less time than reading more with zeros.
            ``fewest``: no gather where a range, or a concatenation of fewer channels, can stand in its place, at the
            price of more arithmetic. ``naive``: no reordering, a gather wherever something is dropped; to compare with.

    Raises:
        ChannelError: a model whose norms or dropout are in train mode, one that is accelerated, or one that holds NaN;
            torch.export cannot follow it; no layer can be pruned; a setting makes no sense; the exported model
            would not compute the same.
        ValueError: the model cannot be copied.
    """
    if copies not in EXPORTS:
        raise ChannelError(f"unknown copies {copies!r}: choose among {', '.join(EXPORTS)}")
    if any(source_type(module) is not type(module) for module in model.modules()):
        raise ChannelError("an accelerated model cannot be pruned: updp_rt.restore it, prune, and accelerate again")
    if any(module.training and isinstance(module, _OTHER_IN_TRAINING) for module in model.modules()):
        raise ChannelError("only a model in eval mode can be pruned: call model.eval() first")
    if not any(tensor.numel() for tensor in tensors(example_input)):
        raise ChannelError("example_input holds no numbers: give images, or a tuple of all that the model takes")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ChannelError("a model on the meta device has no weights to choose by: load them first")
    _check_finite(model, example_input)
    batches = [images] if isinstance(images, Tensor | dict) else list(images or ())
    if masks is None:
        check_budget(amount, scope, limits or {})
        check_measure(importance, batches)
    with torch.inference_mode(False), torch.no_grad():  # whatever the caller's mode, the result can be trained
        if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
            model = copy_model(model)
        exact = allows_float64(model, example_input)
        whole = trace(model, example_input)
        scores: Scores = {}
        if masks is None:
            scores = score_inputs(model, whole, importance, batches)
        else:
            check_masks(whole, masks)

        def choose_for(found: Trace) -> tuple[Masks, tuple[str, ...]]:
            if not found.prunable:
                why = "; ".join(found.notes[:3]) or "it has no two layers in a row"
                raise ChannelError(f"no layer of this {type(model).__name__} reads channels that can be removed: {why}")
            if masks is not None:
                kept = {name: mask for name, mask in masks.items() if found is whole or name in found.prunable}
                return kept, tuple(f"{n}: keeps all its inputs, whatever its mask" for n in masks if n not in kept)
            if batches and scope == "global" and not constrained:
                return choose_coupling(model, found, scores, amount, batches, limits=limits, exact=exact)
            return choose_masks(found, scores, amount, scope=scope, constrained=constrained, limits=limits), ()

        chosen, notes = choose_for(whole)
        failures: list[ChannelError] = []
        for kinds in _closures(whole):
            try:
                found = trace(model, example_input, close=kinds) if kinds else whole
                if kinds:
                    chosen, notes = choose_for(found)
                    kept = " and ".join(WRITTEN[kind] for kind in kinds)
                    notes = (f"{kept} all stay; without that, {failures[0]}", *notes)
                return _export(model, found, chosen, copies, example_input, exact, notes)
            except ChannelError as error:
                failures.append(error)
    raise ChannelError("; at first: ".join(dict.fromkeys((str(failures[-1]), str(failures[0])))))


def _check_finite(model: nn.Module, example: Inputs) -> None:
    # A mask, among the buffers or the inputs, may well hold infinity.
    buffers = (name for name, tensor in model.named_buffers() if tensor.isnan().any())
    weights = (name for name, tensor in model.named_parameters() if not tensor.isfinite().all())
    for name in (*weights, *buffers):
        raise ChannelError(f"{name} holds NaN or infinity: give other weights")
    if isinstance(example, Tensor) and not example.isfinite().all():
        raise ChannelError("example_input holds NaN or infinity: give another")


def _closures(found: Trace) -> Iterable[tuple[str, ...]]:
    """Kinds of channels to keep, the fewest first: what a model's code has written out shows only when it runs."""
    kinds = [kind for kind in WRITTEN if not found.written[kind] <= found.closed.keys()]
    return (some for count in range(len(kinds) + 1) for some in combinations(kinds, count))


def _export(
    model: nn.Module, found: Trace, masks: Masks, copies: str, example: Inputs, exact: bool, notes: Sequence[str]
) -> ChannelResult:
    alive = find_alive(found, masks)
    plain = Layout(alive)
    naive = choose_naive(found, masks, plain)
    order = find_order(found, masks, alive)
    layout = plain if copies == "naive" else Layout(alive, order.occupant)
    chosen = naive if copies == "naive" else choose(found, masks, layout, copies)
    pruned = export_model(model, found, masks, layout, chosen)
    check = check_equal(mask_model(model, masks), pruned, example, exact=exact)
    _tell_size(pruned, example)
    if isinstance(example, Tensor) and example.dim() == 4:
        tell_widths(pruned, read_widths(pruned, tuple(example.shape)))
    costs = [
        Cost(sum(p.numel() for p in each.parameters()), macs // count_images(example, found.batched))
        for each, macs in zip((model, pruned), check.macs, strict=True)
    ]
    return ChannelResult(
        model=pruned,
        masks={name: np.array(mask) for name, mask in masks.items()},
        layers=[_report(name, masks[name], chosen[name]) for name in found.consumers if name in masks],
        naive=count_copies(found, plain, naive),
        copies=count_copies(found, layout, chosen),
        optimum=order.left if order.exact else None,
        cost=costs[0],
        pruned_cost=costs[1],
        error=check.error,
        precision=check.dtype,
        notes=(*found.notes, *notes),
    )


def _tell_size(model: nn.Module, example: Inputs) -> None:
    """Have timm's configuration, which a saved model keeps, name the images that the model was pruned for."""
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and isinstance(example, Tensor) and example.dim() == 4:
        told: Any = model
        told.pretrained_cfg = told.default_cfg = {**config, "input_size": tuple(example.shape[1:])}


def _report(name: str, mask: Bools, choice: Choice) -> LayerReport:
    kind = "all" if choice.selection is None else choice.selection.kind
    how = "concatenation" if kind == "parts" else kind
    return LayerReport(name, len(mask), int(mask.sum()), len(choice.positions), how, choice.link.module)
