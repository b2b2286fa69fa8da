"""Pictures of the suites' results, drawn from their files by ``python -m benchmarks pictures``."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from benchmarks.grid import best, median, ratio
from benchmarks.results import Row, by_case, read
from benchmarks.studies import fading, field
from benchmarks.suites import engines
from benchmarks.suites.micro import operator_times
from benchmarks.suites.models import most_pruned
from updp_rt.artifacts.atomic import atomic_path

Case = Mapping[str, Row]

# Okabe & Ito's colours, which most colour-blind readers tell apart; shapes and labels say the same again.
COLORS = ("#999999", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v")


def draw_folder(folder: Path, suites: Sequence[str]) -> Iterator[Path]:
    """Draw what a folder has results for; yields the pictures' paths.

    Raises:
        ValueError: a suite has no picture, or its result cannot be read.
    """
    for suite in suites:
        if suite not in PICTURES:
            raise ValueError(f"there is no picture of {suite!r}: choose among {', '.join(PICTURES)}")
        source = folder / f"{suite}.csv"
        if not source.exists():
            continue
        result = read(source)
        cases = list(by_case(result.rows).values())
        if not cases:
            continue
        devices = " and\n".join(dict.fromkeys(row.get("device", result.about["device"]) for row in result.rows))
        figure = PICTURES[suite](cases, f"{devices}, torch {result.about['versions']['torch']}")
        target, drawn = source.with_suffix(".png"), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=80)
        with atomic_path(target) as temporary:  # in few colours, which keep the lines' own: a quarter of the size
            Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE).save(
                temporary, format="PNG", optimize=True
            )
        yield target


def _about(case: Case) -> Row:
    """What the rows of a case have in common."""
    return next(iter(case.values()))


def draw_micro(cases: Sequence[Case], where: str) -> Figure:
    """The best fused kernel over eager, compiled and vendor: each problem against its arithmetic intensity."""
    versus = ("eager", "compiled", "vendor")
    dtypes = list(dict.fromkeys(_about(case)["dtype"] for case in cases))
    operators = list(dict.fromkeys(_about(case)["operator"] for case in cases))
    figure, grid = _figure(f"Fused operators on the frozen problems ({where})", len(dtypes), len(versus), 2.7, 4.0)
    for axes_row, dtype in zip(grid, dtypes, strict=True):
        for axes, baseline in zip(axes_row, versus, strict=True):
            for index, operator in enumerate(operators):
                points = []
                for case in cases:
                    times, row = operator_times(case), _about(case)
                    if (row["dtype"], row["operator"]) == (dtype, operator) and (
                        over := ratio(times[baseline], times["fused"])
                    ):
                        points.append((row["flops"] / row["bytes"], over))
                if points:
                    style = {"color": COLORS[1 + index], "marker": MARKERS[index], "alpha": 0.7, "s": 18}
                    axes.scatter(*zip(*points, strict=True), label=operator, **style)
            axes.axhline(1.0, color="#444444", linewidth=0.8)
            _log_axes(axes)
            axes.set_title(f"{dtype}: × over {baseline}", loc="left", fontsize=9)
            axes.set_xlabel("FLOP per byte", fontsize=8)
    return _with_legend(figure)


def draw_blocks(cases: Sequence[Case], where: str) -> Figure:
    """Each block's forms over the baseline block in eager torch."""
    forms = ("compiled", "accelerated", "pruned", "merged", "merged accelerated")
    groups = _groups(cases, ("model", "dtype", "batch"))
    columns = min(2, len(groups))
    figure, grid = _figure(
        f"Blocks: × over the baseline block ({where})", -(-len(groups) // columns), columns, 3.0, 6.0
    )
    for axes, (title, members) in zip(_flat(grid), groups.items(), strict=False):
        bars = [[ratio(median(case, "baseline"), median(case, form)) for case in members] for form in forms]
        _bars(axes, [_about(case)["block"] for case in members], dict(zip(forms, bars, strict=True)))
        axes.axhline(1.0, color="#444444", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=9)
    return _with_legend(figure)


def draw_models(cases: Sequence[Case], where: str) -> Figure:
    """Each variant's throughput by mode, over the best of the unpruned model in eager and compiled."""
    modes = ("eager", "compiled", "accelerated")
    columns = min(4, len(cases))
    title = f"Models: × over the best of the unpruned model, eager or compiled\n({where})"
    figure, grid = _figure(title, -(-len(cases) // columns), columns, 2.6, 3.0 if columns > 1 else 6.0)
    for axes, case in zip(_flat(grid), cases, strict=False):
        variants = list(dict.fromkeys(name.split()[0] for name in case))
        base, row = best(case, ("P0 eager", "P0 compiled")), _about(case)
        bars = {mode: [ratio(base, median(case, f"{variant} {mode}")) for variant in variants] for mode in modes}
        _bars(axes, variants, bars)
        axes.axhline(1.0, color="#444444", linewidth=0.8)
        axes.set_title(f"{row['model']}\n{row['dtype']}, batch {row['batch']}", loc="left", fontsize=8)
    return _with_legend(figure)


def draw_engines(cases: Sequence[Case], where: str) -> Figure:
    """What the engines make of each model, and `auto` of it with blocks merged, over the best of the others."""
    groups = _groups(cases, ("dtype", "batch"))
    columns = min(2, len(groups))
    title = f"Engines: × over the best other than ours on the unpruned model\n({where})"
    figure, grid = _figure(title, -(-len(groups) // columns), columns, 2.8, 6.0)
    for axes, (title, members) in zip(_flat(grid), groups.items(), strict=False):
        members.sort(key=lambda case: str(_about(case)["model"]))
        base = [median(case, f"P0 {engines.best_other(case)}") for case in members]
        shown = {name: [f"P0 {name}"] * len(members) for name in engines.OTHERS}
        shown |= {"fused kernels": ["P0 modules"] * len(members), "auto": ["P0 auto"] * len(members)}
        shown["auto, merged"] = [f"{most_pruned(list(case.values()))} auto" for case in members]
        bars = {
            label: [ratio(best, median(case, name)) for best, case, name in zip(base, members, names, strict=True)]
            for label, names in shown.items()
        }
        _bars(axes, [str(_about(case)["model"]) for case in members], bars)
        axes.axhline(1.0, color="#444444", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=9)
    return _with_legend(figure)


def draw_paper(cases: Sequence[Case], where: str) -> Figure:
    """Each table's models by their speed over the slowest in eager torch."""
    longest = max(len(case) for case in cases)
    title = f"The paper's comparisons: × over the slowest in eager torch\n({where})"
    figure, grid = _figure(title, 1, len(cases), 1 + 0.3 * longest, 6.0)
    for axes, case in zip(_flat(grid), cases, strict=True):
        ordered = sorted((row["speedup"], name) for name, row in case.items() if "speedup" in row)
        names, values = [name for _, name in ordered], [value for value, _ in ordered]
        colors = [
            COLORS[2] if name.endswith("accelerated") else COLORS[1] if " P" in name else COLORS[0] for name in names
        ]
        places = range(len(names))
        axes.barh(places, values, color=colors)
        axes.set_yticks(places, names, fontsize=8)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.2f}×", va="center", fontsize=8)
        axes.margins(x=0.15)
        axes.set_title(_about(case)["case"], loc="left", fontsize=9)
    return figure


def draw_field(cases: Sequence[Case], where: str) -> Figure:
    """Each method's change of accuracy against its speed-up, on each model: means, and deviations over the seeds.

    What loses thrice as much as the middle one, or as a point, would press the others together: it stands at the edge,
    with its figure.
    """
    whole = [case for case in cases if {"baseline", "pruned"} <= set(case)]
    whole.sort(key=lambda case: list(FIELD_STYLES).index(_about(case)["method"]))
    groups = _groups(whole, ("model",))
    columns = min(2, max(1, len(groups)))
    title = f"Ours (filled) and rivals (hollow), over the baseline of the seed\n({where})"
    figure, grid = _figure(title, -(-len(groups) // columns), columns, 3.6, 6.0)
    for axes, (model, members) in zip(_flat(grid), groups.items(), strict=False):
        axes.scatter([1.0], [0.0], marker="*", color="#000000", s=70, label="baseline", zorder=3)
        points = []
        for (method, _), alike in _by(members, ("method", "share")).items():
            ratios = [ratio(median(case, "baseline"), median(case, "pruned")) or math.nan for case in alike]
            changes = [100 * (case["pruned"]["accuracy"] - case["baseline"]["accuracy"]) for case in alike]
            points.append((method, *_mean_and_deviation(ratios), *_mean_and_deviation(changes)))
        least = 3 * min(-1.0, statistics.median(y for *_, y, _ in points))
        below = sorted((x, y) for _, x, _, y, _ in points if y < least)
        for index, (x, y) in enumerate(below):
            place = (0, (-12, 6)[index % 2])  # neighbours' figures would cover each other
            axes.annotate(f"{y:.1f}", (x, least), place, textcoords="offset points", ha="center", fontsize=7)
        for method, x, dx, y, dy in points:
            axes.errorbar(x, max(y, least), 0.0 if y < least else dy, dx, **FIELD_STYLES[method], label=method)
        if below:
            axes.set_ylim(bottom=1.15 * least)
        axes.set_title(model, loc="left", fontsize=9)
        axes.set_xlabel("× faster than the baseline", fontsize=8)
        axes.set_ylabel("points of accuracy", fontsize=8)
    return _with_legend(figure)


def _field_styles() -> dict[str, dict[str, Any]]:
    ours: dict[str, dict[str, Any]] = {}
    rivals: dict[str, dict[str, Any]] = {}
    for method in field.ORDER:
        mine = method.startswith(("updp", "channels"))
        group, markers = (ours, "sD") if mine else (rivals, "o^v")
        color = COLORS[len(group) % len(COLORS)]
        face, marker = color if mine else "#FFFFFF", markers[len(group) // len(COLORS)]
        group[method] = {"color": color, "marker": marker, "mfc": face, "markersize": 6, "elinewidth": 0.8}
    return ours | rivals


# How each method of the field is drawn, in every picture alike: ours filled, rivals hollow.
FIELD_STYLES = _field_styles()


def draw_fading(cases: Sequence[Case], where: str) -> Figure:
    """What each way to train adds to direct training, against the budget: means, and deviations over the seeds."""
    cases = [case for case in cases if fading.ARMS.keys() <= case.keys()]
    groups = _by(cases, ("model", "pruned", "blocks"))
    columns = min(2, max(1, len(groups)))
    title = f"What fading adds to direct training of the same subnets\n({where})"
    figure, grid = _figure(title, -(-len(groups) // columns), columns, 3.6, 6.0)
    ways = [name for name in fading.ARMS if name != fading.DIRECT]
    for axes, ((model, pruned, blocks), members) in zip(_flat(grid), groups.items(), strict=False):
        budgets = sorted(_by(members, ("steps",)).items())
        steps = [step for (step,), _ in budgets]
        axes.axhline(0.0, color="#000000", linewidth=0.8)
        for index, way in enumerate(ways):
            gains = [
                [100 * (case[way]["accuracy"] - case[fading.DIRECT]["accuracy"]) for case in alike]
                for _, alike in budgets
            ]
            means, deviations = zip(*map(_mean_and_deviation, gains), strict=True)
            color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
            axes.errorbar(steps, means, deviations, marker=marker, color=color, markersize=5, elinewidth=0.8, label=way)
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{pruned} of the {blocks} blocks of {model}", loc="left", fontsize=9)
        axes.set_xlabel("steps of training", fontsize=8)
        axes.set_ylabel("points over direct", fontsize=8)
    return _with_legend(figure)


PICTURES: dict[str, Callable[[Sequence[Case], str], Figure]] = {
    "micro": draw_micro,
    "blocks": draw_blocks,
    "models": draw_models,
    "engines": draw_engines,
    "paper": draw_paper,
    "fading": draw_fading,
    **dict.fromkeys(("field_cnn", "field_vit", "field_width"), draw_field),
}


def _figure(title: str, rows: int, columns: int, height: float, width: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * columns, height * rows + 0.7), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in _flat(grid):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, grid


def _log_axes(axes: Axes) -> None:
    """Both logarithmic, with plain numbers at 1, 2, 5 and 1, 3."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, subs in ((axes.xaxis, (1.0, 3.0)), (axes.yaxis, (1.0, 2.0, 5.0))):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _flat(grid: Any) -> list[Axes]:
    return [axes for row in grid for axes in row]


def _bars(axes: Axes, labels: Sequence[str], groups: Mapping[str, Sequence[float | None]]) -> None:
    """Grouped bars; those without a value are left out."""
    shown = {name: values for name, values in groups.items() if any(value is not None for value in values)}
    width = 0.8 / max(1, len(shown))
    for index, (name, values) in enumerate(shown.items()):
        places = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(labels))]
        color = COLORS[list(groups).index(name) % len(COLORS)]
        axes.bar(places, [value or 0.0 for value in values], width=width, color=color, label=name)
    turned = max(map(len, labels), default=0) > 4
    axes.set_xticks(range(len(labels)), labels, rotation=40 if turned else 0, ha="right" if turned else "center")


def _groups(cases: Sequence[Case], keys: tuple[str, ...]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        row = _about(case)
        shown = (f"batch {row[key]}" if key == "batch" else str(row[key]) for key in keys)
        found.setdefault(", ".join(shown), []).append(case)
    return found


def _by(cases: Sequence[Case], keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[Case]]:
    """Cases that agree in what these columns hold."""
    found: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        found.setdefault(tuple(_about(case)[key] for key in keys), []).append(case)
    return found


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _with_legend(figure: Figure) -> Figure:
    """One legend below the axes, equal entries once; axes without anything are taken away."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        axes.set_visible(axes.has_data())
    each = 0.6 + 0.075 * max(map(len, entries), default=0)  # inches of the widest, at this size of letters
    columns = max(1, min(6, int(figure.get_figwidth() / each)))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(entries) // columns))
    handles = list(entries.values())
    figure.legend(handles, list(entries), loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
    return figure
