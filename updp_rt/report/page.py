"""The page: its head and its sections put into the template, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

import updp_rt
from updp_rt.artifacts import Manifest
from updp_rt.blocks.inspect import ModelReport
from updp_rt.report.charts.scale import milliseconds, percent, quantity, times
from updp_rt.report.charts.svg import key_mark
from updp_rt.report.collect import Certified, Missing, Parts
from updp_rt.report.schema import Profile, Summary
from updp_rt.report.sections import Section, describe_images, make_sections

HERE = Path(__file__).parent
VERDICTS = {"pass": "passed", "fail": "FAILED", "doubt": "in doubt"}


@dataclass(frozen=True)
class Tile:
    """One figure of the page's head: the value, what it is, and what it was before."""

    label: str
    value: str
    note: str
    state: str = ""


@dataclass(frozen=True)
class Head:
    """What stands above a page's sections: what it is about, in words and in figures."""

    kind: str
    name: str
    title: str
    subtitle: str
    lead: str
    tiles: list[Tile]


def render(parts: Parts) -> tuple[str, list[tuple[str, Missing]]]:
    """The page's HTML, and the parts that it says are missing."""
    sections = make_sections(parts)
    head = Head(
        kind="pruning run" if parts.is_run else "saved model",
        name=parts.name,
        title=parts.architecture,
        subtitle=_subtitle(parts),
        lead=_lead(parts),
        tiles=_tiles(parts),
    )
    return render_page(head, sections)


def render_page(head: Head, sections: Sequence[Section]) -> tuple[str, list[tuple[str, Missing]]]:
    """A page's HTML, and the parts that it says are missing."""
    missing = [entry for section in sections for entry in section.missing]
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    html = _template().render(
        **vars(head),
        sections=sections,
        key_mark=key_mark,
        verdicts=VERDICTS,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        version=updp_rt.__version__,
    )
    return html, missing


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("updp_rt.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.jinja")


def _digest(text: str) -> str:
    """How a content security policy names an inline style or script, so that no other can run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _subtitle(parts: Parts) -> str:
    if isinstance(parts.forms, Missing):
        return "not merged yet"
    total = f" of {len(parts.structure.blocks)}" if isinstance(parts.structure, ModelReport) else ""
    return f"{len(parts.forms)}{total} blocks merged"


def _lead(parts: Parts) -> str:
    found = parts.summary
    if isinstance(found, Missing):
        return (
            "The figures of the merged model are not there; what the folder holds is below."
            if parts.is_run
            else "What the saved model is. How it was pruned is not in this folder."
        )
    before, after = found.baseline, found.merged
    points = 100 * (after.accuracy - before.accuracy)
    than = "the same as" if abs(points) < 0.005 else f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"
    batch, slow, quick = _times(found, parts.profile)
    return (
        f"The merged model takes {milliseconds(quick)} where the baseline takes {milliseconds(slow)}: "
        f"{times(slow / quick)} (batch {batch}). Its accuracy is "
        f"{percent(after.accuracy)} on {describe_images(found)}, {than} the baseline's."
    )


def _times(found: Summary, profile: Profile | Missing) -> tuple[int, float, float]:
    """Batch size, and latencies of the baseline and the merged model at it: the profile's, where there is one.

    So the head's figures are all of one batch size, timed in turn; those of the run are in the table below.
    """
    if isinstance(profile, Profile):
        return profile.input[0], profile.model.baseline, profile.model.merged
    return found.batch_size, found.baseline.latency_ms, found.merged.latency_ms


def _tiles(parts: Parts) -> list[Tile]:
    tiles = []
    found = parts.summary
    if isinstance(found, Summary):
        batch, slow, quick = _times(found, parts.profile)
        note = f"from {milliseconds(slow)} · {times(slow / quick)}"
        tiles += [
            Tile("accuracy", percent(found.merged.accuracy), f"from {percent(found.baseline.accuracy)}"),
            Tile(f"latency, batch {batch}", milliseconds(quick), note),
        ]
    elif isinstance(parts.manifest, Manifest) and parts.manifest.accuracy is not None:
        tiles.append(Tile("accuracy", percent(parts.manifest.accuracy), "recorded when it was saved"))
    if isinstance(parts.profile, Profile):
        whole = parts.profile.model
        note = f"from {milliseconds(whole.baseline)} · {times(whole.baseline / whole.accelerated)}"
        tiles.append(Tile(f"on fused kernels, batch {parts.profile.input[0]}", milliseconds(whole.accelerated), note))
    if isinstance(found, Summary):
        tiles += [
            Tile("parameters", quantity(found.merged.params), f"from {quantity(found.baseline.params)}"),
            Tile("MACs per image", quantity(found.merged.macs), f"from {quantity(found.baseline.macs)}"),
        ]
    if isinstance(parts.certificate, Certified):
        proof, state = parts.certificate.certificate, parts.certificate.state
        note = "see its note" if state == "doubt" else f"{len(proof.modules)} modules"
        tiles.append(Tile("certificate", VERDICTS[state], note, state))
    return tiles
