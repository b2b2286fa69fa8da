"""Methods of width: channels removed in one go, by our own masks or by Torch-Pruning, to one share of parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt.channels import prune_channels, read_widths, tell_widths

WIDTHS = ("channels", "channels-constrained", "torch-pruning")
MEASURE = "lamp"
HALVINGS = 8  # of the range in which Torch-Pruning's own share is looked for: to 0.4%


def check_width(name: str) -> None:
    """Raise `ValueError` where a method of width cannot run here."""
    if name == "torch-pruning" and find_spec("torch_pruning") is None:
        raise ValueError("the method torch-pruning needs the package: pip install --no-deps torch-pruning")


def narrow(name: str, model: nn.Module, images: Tensor, amount: float) -> nn.Module:
    """A narrower copy of `model`, in eval mode, still to be trained.

    Args:
        name: ``channels`` (each layer keeps the inputs it wants), ``channels-constrained`` (coupled layers keep the
            same) or ``torch-pruning`` (coupled layers as that package finds them, ranked within equal structures by the
            L2 norm of their groups: what its authors call isomorphic).
        images: training images ``[N, C, H, W]`` on the model's device, by which our own masks are chosen.
        amount: share of the parameters to remove; of the largest share that removes no more for ``torch-pruning``.
    """
    model = copy_model(model).eval()
    if name == "torch-pruning":
        return _by_torch_pruning(model, images[:1], amount)
    constrained = name == "channels-constrained"
    found = prune_channels(model, images[:1], amount, MEASURE, constrained=constrained, images=images)
    return found.model.eval()


def _by_torch_pruning(model: nn.Module, example: Tensor, amount: float) -> nn.Module:
    before = count_parameters(model)

    def pruned(ratio: float) -> nn.Module:
        return _prune_groups(copy_model(model), example, ratio)

    return _closest(pruned, lambda candidate: count_parameters(candidate) >= (1 - amount) * before)


def _closest(make: Callable[[float], nn.Module], fits: Callable[[nn.Module], bool]) -> nn.Module:
    """The model of the largest ratio that `fits`, by halving; that of ratio 0 fits."""
    low, high = 0.0, 0.95
    best = make(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        candidate = make(middle)
        if fits(candidate):
            low, best = middle, candidate
        else:
            high = middle
    return best


def _prune_groups(model: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """`model` with this share of its channels removed by Torch-Pruning, in place."""
    import torch_pruning

    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "qkv")]
    fused = [attention.fused_attn for attention in attentions]
    for attention in attentions:
        attention.fused_attn = False  # its graph is followed by gradients
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=True,
            isomorphic=True,
            ignored_layers=[classifier],
            num_heads={attention.qkv: attention.num_heads for attention in attentions},
            prune_num_heads=bool(attentions),
            head_pruning_ratio=ratio,
        )
        pruner.step()
    for attention, was in zip(attentions, fused, strict=True):
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.attn_dim = attention.qkv.out_features // 3
        attention.head_dim = attention.attn_dim // attention.num_heads
        attention.scale = attention.head_dim**-0.5
        attention.fused_attn = was
    for parameter in model.parameters():
        parameter.grad = None
    tell_widths(model, read_widths(model, tuple(example.shape)))
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
