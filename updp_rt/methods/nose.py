"""`nose`: some attentions fade into the identity (Lin et al., "MLP can be a good transformer learner", CVPR 2024).

From the paper: attentions that say little are removed, and the MLPs take over; which ones, by transfer entropy between
a layer and the output.

From the published code (sihaoevery/lambda_vit): a chosen attention fades as ``(2 - λ)·x + λ·attn(LN(x))``, its λ
falling from 1 to 0, so that 2·x is left; the choice there is a list by hand.

Ours: attentions are ranked by the validation cross entropy with each alone replaced by 2·x, because no code has the
transfer entropy; they fade over `ramp` of the training, as UPDP's blocks do, where the code takes three quarters (our λ
is 1 less theirs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt.blocks import MergeOrigin
from updp_rt.methods.attention import FadingAttention, put_attention, transformer_blocks
from updp_rt.methods.drop import judge_one, missing
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Replacing
from updp_rt.pruning.progressive import lambda_at
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import SearchResult
from updp_rt.pruning.trainer import Losses

BODY = "doubled"


class Nose(Replacing):
    """Attentions faded away."""

    name = "nose"
    fades = True

    def names(self, model: nn.Module) -> list[str]:
        return [f"{name}.attn" for name in transformer_blocks(self.name, model)]

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        missed = {}
        with run.progress.task("search", len(run.names)) as advance:
            for name in run.names:
                missed[name] = missing(run, faded(self.subnet(run.model, {name: BODY})))
                advance(name)
        least = sorted(run.names, key=lambda name: missed[name])[: run.config.num_pruned]
        bodies = {name: BODY for name in run.names if name in least}
        return judge_one(run, faded(self.subnet(run.model, bodies)), bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        model = to_source(copy_model(model))
        for name in bodies:
            block: Any = model.get_submodule(name.removesuffix(".attn"))
            block.attn = FadingAttention(block.norm1, block.attn)
            block.norm1, block.ls1 = nn.Identity(), nn.Identity()
        return model

    def losses(self, run: Run, ramp: int, trace: list[tuple[int, float]]) -> Losses:
        plain, schedule = super().losses(run, ramp, trace), run.config.schedule

        def losses(model: nn.Module, images: Tensor, labels: Tensor, step: int) -> Iterator[Tensor]:
            faded(model, lambda_at(step, ramp, schedule))
            yield from plain(model, images, labels, step)

        return losses

    def finish(self, subnet: nn.Module) -> nn.Module:
        return faded(subnet)

    def merge(self, subnet: nn.Module, choose_forms: Callable[[dict[str, str]], dict[str, str]]) -> nn.Module:
        merged = copy_model(subnet).eval()
        for name, module in list(merged.named_modules()):
            if isinstance(module, FadingAttention):
                put_attention(merged, name.removesuffix(".attn"))
        return merged

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        return {name: MergeOrigin(body, "NoAttention") for name, body in bodies.items()}


def faded(model: nn.Module, lam: float = 1.0) -> nn.Module:
    """`model` with its fading attentions at λ."""
    for module in model.modules():
        if isinstance(module, FadingAttention):
            module.lam = lam
    return model
