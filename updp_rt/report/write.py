"""From a folder to the page about it."""

from __future__ import annotations

from pathlib import Path

from updp_rt.artifacts.atomic import write_text
from updp_rt.report.collect import Missing, collect
from updp_rt.report.comparison import is_comparison, render_comparison
from updp_rt.report.page import render

REPORT = "report.html"


def write_report(folder: str | Path, out: str | Path | None = None) -> tuple[Path, list[tuple[str, Missing]]]:
    """Write what `folder`, a run's, a saved model's or a comparison's, holds as one page of HTML, all in one file.

    Args:
        out: where to; ``report.html`` in the folder by default. An older one is replaced at once or not at all.

    Returns:
        The page's path, and the parts that the page says are missing.

    Raises:
        ValueError: the folder is none of these.
    """
    html, missing = render_comparison(folder) if is_comparison(folder) else render(collect(folder))
    path = Path(out) if out is not None else Path(folder) / REPORT
    write_text(path, html)
    return path, missing
