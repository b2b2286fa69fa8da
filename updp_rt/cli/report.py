"""Commands that look back on a run: ``profile`` times its merged model, ``report`` writes one HTML page about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, out, parse_dtype, print_json
from updp_rt.cli.options import AsJson, OtherEngine


def _is_there(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return folder


Folder = Annotated[
    Path, typer.Argument(help="Folder of a run, or of a saved model.", show_default=False, callback=_is_there)
]


@app.command(epilog="Example: updp-rt profile runs/deit-p6 --batch 8")
def profile(
    folder: Folder,
    batch: Annotated[int | None, typer.Option(min=1, help="Images at once. Default: the run's, or 8.")] = None,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    engine: OtherEngine = None,
    json: AsJson = False,
) -> None:
    """Time the merged model in FOLDER beside its baseline: whole, block by block, kernel by kernel.

    Whole models are also timed on another engine, where one is installed; --engine modules leaves that out.

    What was measured is kept in FOLDER/profile.json, which `updp-rt report` draws. On a GPU if there is one.
    """
    kind = parse_dtype(dtype)
    from updp_rt import report
    from updp_rt.cli.progress import followed

    with followed(show=not json):
        found = report.profile(folder, batch_size=batch, dtype=kind, engine=engine)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    whole, other = found.model, ""
    if whole.other is not None:
        other = (
            f"; in {whole.other.engine} baseline {whole.other.baseline:.2f} ms, merged {whole.other.merged:.2f} ms "
            f"({whole.baseline / whole.other.merged:.2f}×)"
        )
    out.print(
        f"batch {found.input[0]}, {found.dtype}, {found.device}: baseline {whole.baseline:.2f} ms, merged "
        f"{whole.merged:.2f} ms, merged on fused kernels {whole.accelerated:.2f} ms "
        f"({whole.baseline / whole.accelerated:.2f}×){other}",
        soft_wrap=True,
    )
    out.print(f"blocks and kernels: {folder / report.PROFILE}   as pictures: updp-rt report {folder}", soft_wrap=True)


@app.command(epilog="Example: updp-rt report runs/deit-p6")
def report(
    folder: Folder,
    out_file: Annotated[Path | None, typer.Option("--out", help="File to write. Default: FOLDER/report.html.")] = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about FOLDER: pictures, tables, and what is missing.

    Nothing is measured: `updp-rt profile` and `updp-rt verify` make the parts that a run does not leave by itself.
    """
    from updp_rt.report import write_report

    path, missing = write_report(folder, out_file)
    if json:
        parts = [
            {"part": part, "reason": gap.reason, "command": gap.command and gap.command.line} for part, gap in missing
        ]
        print_json({"report": str(path), "missing": parts})
        return
    out.print(f"report: {path}", soft_wrap=True)
    for part, gap in missing:
        how = f" {gap.command.words} {gap.command.line}" if gap.command else ""
        out.print(f"missing: {part}. {gap.reason}{how}", soft_wrap=True)
