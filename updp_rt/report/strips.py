"""Where the widths of the blocks' picture come from: the profile, else the run's latency table, else MACs."""

from __future__ import annotations

from collections.abc import Mapping

from updp_rt.artifacts.manifest import MergedForm
from updp_rt.blocks.inspect import BlockReport, Cost, ModelReport
from updp_rt.pruning.latency import LatencyTable
from updp_rt.report.charts.strip import Block, Strips
from updp_rt.report.collect import Missing, Parts
from updp_rt.report.schema import Profile

Forms = dict[str, MergedForm]
Costs = dict[str, Cost]

_ROWS = ["baseline", "merged", "merged, fused kernels"]


def find_strips(parts: Parts) -> Strips | Missing:
    """The blocks before and after, by the best measure that the folder has."""
    structure, forms = parts.structure, parts.forms
    if isinstance(structure, Missing):
        return structure
    if isinstance(forms, Missing):
        return forms
    unknown = sorted(set(forms) - {block.name for block in structure.blocks})
    if unknown:
        return Missing(f"The folder names merged blocks that the model does not have: {', '.join(unknown[:4])}.")
    names = [block.name for block in structure.blocks]
    if isinstance(parts.profile, Profile) and list(parts.profile.blocks) == names:
        return _by_profile(structure, forms, parts.costs, parts.profile)
    if isinstance(parts.latency, LatencyTable) and _measured(parts.latency, forms):
        return _by_table(structure, forms, parts.costs, parts.latency)
    return _by_macs(structure, forms, parts.costs)


def _by_profile(structure: ModelReport, forms: Forms, costs: Costs, profile: Profile) -> Strips:
    sizes = {name: (ms.baseline, ms.merged, ms.accelerated) for name, ms in profile.blocks.items()}
    totals = [profile.model.baseline, profile.model.merged, profile.model.accelerated]
    source = (
        f"Each block as wide as it is slow, timed alone: batch {profile.input[0]} on {profile.device}, {profile.dtype}."
    )
    return Strips(_ROWS, totals, _make(structure, forms, costs, sizes), "ms", "latency, ms", source)


def _by_table(structure: ModelReport, forms: Forms, costs: Costs, table: LatencyTable) -> Strips:
    sizes: dict[str, tuple[float, float]] = {}
    for name, block in table.blocks.items():
        form = forms.get(name)
        after = block.baseline_ms if form is None else block.form_ms(form.body, form.form)
        assert after is not None
        sizes[name] = (block.baseline_ms, after)
    saved = sum(before - after for before, after in sizes.values())
    # Blocks were timed alone, which may take longer: the model cannot take less than what is left of them.
    totals = [table.model_ms, max(table.model_ms - saved, sum(after for _, after in sizes.values()))]
    kept = ModelReport(**{**vars(structure), "blocks": [block for block in structure.blocks if block.name in sizes]})
    source = (
        f"Each prunable block as wide as it is slow, by the run's table: batch {table.batch_size} on {table.device}; "
        "the merged model's total is computed from it."
    )
    return Strips(_ROWS[:2], totals, _make(kept, forms, costs, sizes), "ms", "latency, ms", source)


def _by_macs(structure: ModelReport, forms: Forms, costs: Costs) -> Strips:
    sizes = {b.name: (b.cost.macs / 1e6, _cost(b, forms, costs).macs / 1e6) for b in structure.blocks}
    before = structure.cost.macs / 1e6
    totals = [before, before - sum(old - new for old, new in sizes.values())]
    source = (
        "Each block as wide as its multiply-accumulates (MACs): nothing was timed, and they do not say how fast it is."
    )
    return Strips(
        _ROWS[:2],
        totals,
        _make(structure, forms, costs, sizes),
        "million MACs",
        "multiply-accumulates per image, millions",
        source,
    )


def _make(structure: ModelReport, forms: Forms, costs: Costs, sizes: Mapping[str, tuple[float, ...]]) -> list[Block]:
    return [
        Block(
            block.name,
            block.kind,
            sizes[block.name],
            (block.cost.params, _cost(block, forms, costs).params),
            "" if block.name not in forms else forms[block.name].form,
        )
        for block in structure.blocks
    ]


def _cost(block: BlockReport, forms: Forms, costs: Costs) -> Cost:
    """What a block costs in the saved model; where that is not there, in its merged form as the structure has it.

    The structure names forms with their body where there are several, and some by their body alone (`form_label`).
    """
    form = forms.get(block.name)
    if block.name in costs:
        return costs[block.name]
    if form is None:
        return block.cost
    names = f"{form.body}/{form.form}", form.form, form.body
    return next((block.merged[name] for name in names if name in block.merged), block.cost)


def _measured(table: LatencyTable, forms: Forms) -> bool:
    return table.model_ms > 0 and all(
        name in table.blocks and table.blocks[name].form_ms(form.body, form.form) is not None
        for name, form in forms.items()
    )
