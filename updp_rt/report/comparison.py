"""The page about a comparison: the picture, the table with what is published beside it, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from updp_rt.comparison import Comparison, Standing, front, published_rows, read_comparison, standings
from updp_rt.comparison.jobs import IDENTITY
from updp_rt.comparison.plan import BASELINE, Job, epoch_steps, goals_of, prune_config, width_epochs
from updp_rt.comparison.published import Published
from updp_rt.comparison.standings import spread
from updp_rt.comparison.width import WIDTHS
from updp_rt.pruning.method import find_method
from updp_rt.report.charts.comparison import draw_comparison
from updp_rt.report.charts.scale import percent, quantity, significant, times
from updp_rt.report.charts.svg import Cell, Table
from updp_rt.report.collect import Command, Missing
from updp_rt.report.page import Head, Tile, render_page
from updp_rt.report.sections import Section

_AGAIN = Command("updp-rt compare …", "The command that began the comparison goes on with it:")


def is_comparison(folder: str | Path) -> bool:
    return (Path(folder) / IDENTITY).is_file()


def render_comparison(folder: str | Path) -> tuple[str, list[tuple[str, Missing]]]:
    """The page's HTML, and the parts that it says are missing."""
    found = read_comparison(folder)
    rows = standings(found)
    best = front(rows)
    methods = len({row.method for row in rows if row.method != BASELINE})
    head = Head(
        kind="comparison",
        name=found.folder.resolve().name,
        title=str(found.identity["model"]),
        subtitle=f"{methods} method{'' if methods == 1 else 's'} on {found.identity['data']}",
        lead="The same data, start weights, seeds and budget for all; latency is measured, models of a seed in turn.",
        tiles=_tiles(rows, best),
    )
    return render_page(head, [_picture(found, rows, best), _table(found, rows, best), _budget(found), _settings(found)])


def _tiles(rows: Sequence[Standing], best: Sequence[Standing]) -> list[Tile]:
    base = next((row for row in rows if row.method == BASELINE), None)
    tiles = []
    if base:
        varies = f"± {100 * spread(base.accuracies):.2f} points, {_seeds(base)}"
        tiles.append(Tile("baseline's accuracy", percent(base.accuracy), varies))
    if base and base.ms:
        tiles.append(Tile("baseline's latency", f"{significant(base.latency)} ms", _seeds(base)))
    quickest = next((row for row in best if row.method != BASELINE), None)
    if quickest:
        tiles.append(Tile("fastest on the front", quickest.label, times(_mean(quickest.speedups))))
    return tiles


def _picture(found: Comparison, rows: Sequence[Standing], best: Sequence[Standing]) -> Section:
    section = ("comparison", "Accuracy against latency")
    timed = [row for row in rows if row.ms]
    if not timed or found.latencies is None:
        return Section(*section, missing=(("the picture", Missing("No latency was measured yet.", _AGAIN)),))
    how = "on fused kernels" if found.latencies.accelerated else "in plain torch"
    where = f"batch {found.latencies.batch_size} on {found.latencies.device}, {how}"
    count = found.identity["images"][2]
    chart = draw_comparison(timed, best, where, f"{count} test images" if count else "the test images")
    return Section(*section, charts=(chart,), missing=_gaps(found))


def _gaps(found: Comparison) -> tuple[tuple[str, Missing], ...]:
    gaps = [
        (f"{Job(row.method, row.goal, 0).label}, seed {row.seed}", Missing(row.failed, _AGAIN)) for row in found.failed
    ]
    if found.waiting:
        words = ", ".join(f"{job.label} (seed {job.seed})" for job in found.waiting[:6])
        words += f" and {len(found.waiting) - 6} more" if len(found.waiting) > 6 else ""
        gaps.append((f"{len(found.waiting)} jobs", Missing(f"Not done yet: {words}.", _AGAIN)))
    return tuple(gaps)


def _table(found: Comparison, rows: Sequence[Standing], best: Sequence[Standing]) -> Section:
    """Measured columns, and behind them one of what is published: other data, networks and devices."""
    columns = ["method", "seeds", "pruned", "parameters", "accuracy, %", "change, points", "latency, ms", "speed-up"]
    columns += ["on the front", "published, on ImageNet"]
    published = {row.method: row for row in reversed(published_rows(tuple(_names(rows)), found.family))}
    cells = []
    for index, row in enumerate(rows):
        beside = published.get(row.method.partition(":")[0])
        cells.append(
            [
                Cell(row.label, index),
                Cell(", ".join(map(str, row.seeds))),
                Cell(_range(row.pruned) if row.method.partition(":")[0] not in (*WIDTHS, BASELINE) else "-"),
                Cell(quantity(_mean(row.params)), _mean(row.params)),
                Cell(_plus_minus([100 * value for value in row.accuracies]), row.accuracy),
                Cell("-" if row.method == BASELINE else _signed(row.changes), _mean(row.changes)),
                Cell(_plus_minus(row.ms) if row.ms else "not measured", row.latency if row.ms else None),
                Cell(times(_mean(row.speedups)) if row.ms else "-", _mean(row.speedups) if row.ms else None),
                Cell("yes" if row in best else ""),
                Cell("-" if beside is None else _told(beside)),
            ]
        )
    table = Table(
        "Means and standard deviations over the seeds; changes and speed-ups are against the baseline of the same seed",
        columns,
        cells,
        frozenset({2, 3, 4, 5, 6, 7}),
    )
    everything = published_rows(tuple(_names(rows)), found.family)
    folded = (_published(everything),) if everything else ()
    lead = "What is published is of other networks, data and devices, and of longer training: it stands beside, "
    return Section("table", "Methods", lead=lead + "and no two columns compare.", tables=(table,), folded=folded)


def _published(rows: Sequence[Published]) -> Table:
    columns = ["method", "network", "top-1 before", "top-1 after", "gain", "read in"]
    cells = [
        [
            Cell(row.method),
            Cell(row.network),
            Cell("-" if row.before is None else f"{row.before:.2f}", row.before),
            Cell("-" if row.after is None else f"{row.after:.2f}", row.after),
            Cell(row.gain),
            Cell(row.source),
        ]
        for row in rows
    ]
    return Table("Published on ImageNet, for networks of this family", columns, cells, frozenset({2, 3}))


def _budget(found: Comparison) -> Section:
    """How each method spends what all have."""
    rows, steps = [], epoch_steps(found.config, found.identity["images"][0])
    for name in found.config.methods:
        chooses, trains, fades = "-", width_epochs(found.config), "-"
        if name.partition(":")[0] not in WIDTHS:
            config = prune_config(found.config, Job(name, goals_of(found.config, name)[0], 0), steps)
            method = find_method(config.method)
            config = method.fill(config, steps)
            trains = config.epochs if method.trains else 0
            chooses = str(config.supernet_epochs) if method.passes(config) else "-"
            fades = f"{config.ramp:g}" if method.fades and not config.direct else "-"
        rows.append([Cell(name), Cell(chooses), Cell(str(trains), trains), Cell(fades)])
    columns = ["method", "epochs of what it chooses by", "epochs of the pruned model", "share that fades, if any"]
    lead = (
        "All have the same number of passes forward and back. A step of what UPDP chooses by takes several; a method "
        "whose steps take one has more epochs of them, and one that trains nothing to choose by trains what it pruned "
        "for longer, and so does UPDP where steps are few. dp and layermerge share UPDP's passes among the entries of "
        "their tables."
    )
    table = Table("How the budget is spent", columns, rows, frozenset({1, 2, 3}))
    return Section("budget", "Budget", lead=lead, tables=(table,))


def _settings(found: Comparison) -> Section:
    training = found.identity.get("training") or {}
    images = found.identity["images"]
    facts = {
        "model": found.identity["model"],
        "data": found.identity["data"],
        "images to train on, choose by, test on": ", ".join(str(count) for count in images),
        **{f"baseline: {key}": str(value) for key, value in training.items()},
        **{key: str(value) for key, value in found.config.settings.items()},
    }
    if found.latencies is not None:
        facts |= {"timed on": found.latencies.device, "timed in batches of": str(found.latencies.batch_size)}
    return Section("settings", "Settings", facts=tuple((key, str(value)) for key, value in facts.items()))


def _names(rows: Sequence[Standing]) -> list[str]:
    return list(dict.fromkeys(row.method.partition(":")[0] for row in rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _seeds(row: Standing) -> str:
    return f"{len(row.seeds)} seed{'' if len(row.seeds) == 1 else 's'}"


def _plus_minus(values: Sequence[float]) -> str:
    mean = _mean(values)
    return f"{mean:.2f} ± {spread(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _signed(values: Sequence[float]) -> str:
    words = f"{100 * _mean(values):+.2f}"
    return f"{words} ± {100 * spread(values):.2f}" if len(values) > 1 else words


def _told(row: Published) -> str:
    """One published row in words."""
    before = "" if row.before is None else f"{row.before:.2f} to "
    after = "" if row.after is None else f"{before}{row.after:.2f}%, "
    return f"{row.network}: {after}{row.gain}"
