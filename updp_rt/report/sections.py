"""The page's sections: from the parts of a folder to sentences, tables and charts, or to what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from updp_rt.artifacts import Manifest
from updp_rt.pruning.search import SearchResult
from updp_rt.report.charts.bars import draw_block_times, draw_model_times
from updp_rt.report.charts.proof import draw_errors, draw_ulps
from updp_rt.report.charts.roofline import draw_roofline
from updp_rt.report.charts.scale import error, milliseconds, percent, quantity, times, yes
from updp_rt.report.charts.search import draw_search
from updp_rt.report.charts.strip import draw_strips
from updp_rt.report.charts.svg import Cell, Chart, Table
from updp_rt.report.charts.training import draw_subnet, draw_supernet
from updp_rt.report.collect import Certified, Missing, Parts, Training, profile_doubt
from updp_rt.report.schema import Identity, Prediction, Profile, Summary
from updp_rt.report.strips import find_strips
from updp_rt.verification import Certificate, Logits


@dataclass(frozen=True)
class Section:
    """One section: a sentence to begin with, and tables and charts; or why there are none.

    Attributes:
        doubt: what the reader must know before believing the section.
        pair: whether the charts stand side by side where there is room.
    """

    name: str
    title: str
    lead: str = ""
    doubt: str = ""
    badge: str = ""
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    folded: tuple[Table, ...] = ()
    pair: bool = False
    missing: tuple[tuple[str, Missing], ...] = ()


def make_sections(parts: Parts) -> list[Section]:
    """The sections in order; every part of the report is in one of them, or in its `missing`."""
    return [
        _blocks(parts),
        _accuracy(parts),
        _search(parts),
        _training(parts),
        _kernels(parts),
        _certificate(parts.certificate),
        _environment(parts),
    ]


def describe_images(found: Summary) -> str:
    return f"{found.images} {'test images' if found.evaluated_on == 'test' else f'images of {found.evaluated_on}'}"


def _blocks(parts: Parts) -> Section:
    section = ("blocks", "Blocks before and after")
    strips = find_strips(parts)
    if isinstance(strips, Missing):
        return Section(*section, missing=(("blocks before and after", strips),))
    return Section(*section, charts=(draw_strips(strips),))


def _accuracy(parts: Parts) -> Section:
    table, chart = _accuracy_table(parts.summary), _speed_chart(parts.profile)
    found = (("accuracy and cost", table), ("speed with and without fused kernels", chart))
    lead, tables = ("", ()) if isinstance(table, Missing) else (table[0], (table[1],))
    return Section(
        "accuracy",
        "Accuracy and speed",
        lead=lead,
        doubt=profile_doubt(parts.profile, parts.manifest) if isinstance(parts.profile, Profile) else "",
        tables=tables,
        charts=() if isinstance(chart, Missing) else (chart,),
        missing=tuple((part, gap) for part, gap in found if isinstance(gap, Missing)),
    )


def _speed_chart(found: Profile | Missing) -> Chart | Missing:
    if isinstance(found, Missing):
        return found
    return draw_model_times(found.model, found.input[0], f"{found.device}, {found.dtype}")


def _accuracy_table(found: Summary | Missing) -> tuple[str, Table] | Missing:
    """The table of the three models, and a sentence to begin with."""
    if isinstance(found, Missing):
        return found
    columns = ["model", "accuracy", "depth", "parameters", "MACs", f"latency, batch {found.batch_size}", "speed-up"]
    rows = []
    named = (("baseline", found.baseline), ("pruned subnet", found.subnet), ("merged model", found.merged))
    for label, row in named:
        rows.append(
            [
                Cell(label),
                Cell(percent(row.accuracy), row.accuracy),
                Cell(str(row.depth), row.depth),
                Cell(quantity(row.params), row.params),
                Cell(quantity(row.macs), row.macs),
                Cell(milliseconds(row.latency_ms), row.latency_ms),
                Cell(times(found.baseline.latency_ms / row.latency_ms), 1 / row.latency_ms),
            ]
        )
    differ = found.predictions_that_differ
    agreement = (
        "predicts exactly what the subnet does" if differ == 0 else f"differs from the subnet on {differ} images"
    )
    lead = (
        f"On {describe_images(found)}; the merged model {agreement}. Depth counts convolutions and "
        f"linear layers. Latency in plain torch on {found.device}, all three in turn."
    )
    if found.prediction is not None:
        lead += f" {_prediction(found.prediction)}"
    caption = "Baseline, pruned subnet and merged model"
    return lead, Table(caption, columns, rows, frozenset(range(1, 7)))


def _prediction(found: Prediction) -> str:
    """A word on the speed-up that the search went by, and what came of it."""
    what = f"On {found.kernels} the search predicted {times(found.predicted_speedup)} for the merged model; measured "
    what += f"beside the baseline it is {times(found.measured_speedup)}: its latency is "
    if abs(found.off) < 0.05:
        return what + "as predicted, within 5%."
    return what + f"{100 * abs(found.off):.0f}% {'more' if found.off > 0 else 'less'} than predicted."


def _advice(search: SearchResult, model_ms: float, accuracy: float | None) -> Table:
    """The best candidate of each number of pruned blocks: what each further block costs and saves."""
    rows = []
    for count, best in search.by_count().items():
        kept = "" if not accuracy else percent(best.accuracy / accuracy, 1)
        rows.append(
            [
                Cell(str(count), count),
                Cell(percent(best.accuracy), best.accuracy),
                Cell(kept, best.accuracy),
                Cell(milliseconds(best.latency_ms), best.latency_ms),
                Cell(times(model_ms / best.latency_ms), model_ms / best.latency_ms),
                Cell(", ".join(best.blocks) or "none"),
            ]
        )
    columns = ["blocks pruned", "accuracy before training", "of the baseline's", "latency", "speed-up", "which"]
    caption = "How many blocks to prune: the most accurate candidate of each number"
    return Table(caption, columns, rows, frozenset(range(5)))


def _search(parts: Parts) -> Section:
    section, found = ("search", "Search front"), parts.search
    if isinstance(found, SearchResult) and not found.candidates:
        found = Missing("search.json holds no candidate.")
    if isinstance(found, Missing):
        return Section(*section, missing=(("search front", found),))
    table = parts.latency
    if isinstance(table, Missing):
        return Section(*section, charts=(draw_search(found, "by the per-block table"),))
    accuracy = parts.summary.baseline.val_accuracy if isinstance(parts.summary, Summary) else None
    goal = parts.identity.max_latency if isinstance(parts.identity, Identity) else None
    chart = draw_search(
        found,
        f"by the per-block table (batch {table.batch_size}, {table.device})",
        baseline=None if accuracy is None else (table.model_ms, accuracy),
        goal_ms=None if goal is None else goal * table.model_ms,
    )
    lead = "" if found.signal is None else f"{found.signal.words().capitalize()}."
    tables = (_advice(found, table.model_ms, accuracy),) if len(found.by_count()) > 1 else ()
    return Section(*section, lead=lead, charts=(chart,), tables=tables)


def _training(parts: Parts) -> Section:
    section, found = ("training", "Training"), parts.training
    if not isinstance(found, Training):
        return Section(*section, missing=(("training curves", found),))
    accuracy = parts.summary.baseline.val_accuracy if isinstance(parts.summary, Summary) else None
    gaps = [] if found.supernet else [("training of the supernet", Missing("log.txt has no epoch of the supernet."))]
    lambdas = found.lambdas
    if isinstance(lambdas, Missing):
        gaps, lambdas = [*gaps, ("λ by step", lambdas)], []
    subnet = draw_subnet(found.subnet, accuracy, lambdas)
    charts = (draw_supernet(found.supernet), subnet) if found.supernet else (subnet,)
    return Section(*section, charts=charts, pair=len(charts) > 1, missing=tuple(gaps))


def _kernels(parts: Parts) -> Section:
    section, found = ("kernels", "Block times and kernels"), parts.profile
    if isinstance(found, Missing):
        return Section(*section, missing=(("block times and roofline", found),))
    merged = set(parts.forms) if isinstance(parts.forms, dict) else set()
    charts = [draw_block_times(found.blocks, merged)] if found.blocks else []
    if any(k.ms is not None for k in found.kernels):
        charts.append(draw_roofline(found.kernels, found.roof, found.dtype))
    winners: dict[str, int] = {}
    for kernel in found.kernels:
        backend = kernel.kernel.partition(":")[0]
        winners[backend] = winners.get(backend, 0) + 1
    ranked = ", ".join(f"{name} {count}" for name, count in sorted(winners.items(), key=lambda item: -item[1]))
    images = "×".join(map(str, found.input))
    lead = f"Measured on {found.device} with images {images} in {found.dtype}. "
    lead += f"Kernels chosen, by backend: {ranked} (reference is torch's plain operators)."
    if found.unfused:
        lead += f" {len(found.unfused)} modules run as they are."
    return Section(*section, lead=lead, charts=tuple(charts))


def _certificate(found: Certified | Missing) -> Section:
    section = ("certificate", "Certificate")
    if isinstance(found, Missing):
        return Section(*section, missing=(("certificate", found),))
    proof = found.certificate
    inputs, shape = proof.inputs, "×".join(map(str, proof.inputs.shape))
    facts = (
        ("created", proof.created.isoformat()),
        ("dtype", proof.dtype),
        ("weights' sha256", proof.model.weights_sha256),
        ("inputs", f"{inputs.source}, {shape}, seed {inputs.seed}"),
        ("inputs' sha256", inputs.sha256),
        *proof.environment.items(),
    )
    charts = []
    if any(module.cases for module in proof.modules):
        charts.append(draw_errors(proof))
        if any(case.ulps for module in proof.modules for case in module.cases):
            charts.append(draw_ulps(proof))
    return Section(
        *section,
        badge=found.state,
        lead=_verdict(proof),
        doubt=found.doubt,
        tables=(_logits(proof.logits),),
        charts=tuple(charts),
        facts=facts,
        folded=_certified_kernels(proof),
    )


def _logits(found: Logits) -> Table:
    columns = [
        "result",
        "samples",
        "same top-1",
        "decided",
        "of these differ",
        "error",
        "torch's error",
        "bound",
        "passed",
    ]
    counts = [Cell(f"{count:,}") for count in (found.samples, found.agree, found.decided, found.disagree)]
    errors = [Cell(error(value)) for value in (found.error, found.torch_error, found.bound)]
    caption = "Logits of the whole model; decided: the two best classes are further apart than the bound"
    return Table(
        caption, columns, [[Cell("logits"), *counts, *errors, Cell(yes(found.passed))]], frozenset(range(1, 9))
    )


def _verdict(proof: Certificate) -> str:
    kinds = {case.inputs for module in proof.modules for case in module.cases}
    reached = len(proof.modules) - len(proof.unreached)
    checked = f"{reached} fused modules were compared with float64 on {len(kinds)} kinds of inputs."
    if proof.unreached:
        checked += f" No input reached {', '.join(proof.unreached)}: nothing is said of them."
    if proof.passed:
        return f"{checked} Every error is within its bound, which torch's own operators set."
    return f"{checked} Not within their bounds: {', '.join(proof.failed)}."


def _certified_kernels(proof: Certificate) -> tuple[Table, ...]:
    rows = [
        [
            Cell(module.name, index),
            Cell(", ".join(module.replaces)),
            Cell(k.problem),
            Cell(k.kernel),
            Cell(k.source[:12]),
        ]
        for index, module in enumerate(proof.modules)
        for k in module.kernels
    ]
    sources = [[Cell(name), Cell(str(digest))] for name, digest in proof.sources.items()]
    found = []
    if rows:
        columns = ["module", "replaces", "operator and shapes", "kernel", "source's hash"]
        found.append(Table("Kernels that were checked", columns, rows))
    if sources:
        found.append(Table("Hashes of the kernels' sources", ["backend", "hash"], sources))
    return tuple(found)


def _environment(parts: Parts) -> Section:
    facts: dict[str, str] = {"architecture": parts.architecture}
    if isinstance(parts.manifest, Manifest):
        facts |= {
            "images": "×".join(map(str, parts.manifest.input_size)),
            "arguments": ", ".join(f"{k}={v}" for k, v in parts.manifest.model_args.given().items()) or "timm's own",
            "weights' file, sha256": parts.manifest.sha256,
        }
        facts |= {f"{name} (saved with)": version for name, version in parts.manifest.versions.items()}
    if isinstance(parts.summary, Summary):
        facts["pruned on"] = parts.summary.device
    if isinstance(parts.profile, Profile):
        facts |= {"profiled": parts.profile.created, "profiled on": parts.profile.device}
        facts |= {f"{key} (profile)": value for key, value in parts.profile.environment.items()}
    config = parts.identity.config if isinstance(parts.identity, Identity) else {}
    settings = [[Cell(name), Cell(str(value))] for name, value in config.items()]
    tables = (Table("Settings of the run", ["setting", "value"], settings),) if settings else ()
    missing = (("saved model", parts.manifest),) if isinstance(parts.manifest, Missing) else ()
    return Section("environment", "Environment", facts=tuple(facts.items()), folded=tables, missing=missing)
