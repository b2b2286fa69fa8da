"""Commands of the HIP kernels: ``build`` compiles them ahead of time, ``inspect`` tells what they need of a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from updp_rt.cli.app import app
from updp_rt.cli.common import out, print_json
from updp_rt.cli.progress import counted

if TYPE_CHECKING:
    from updp_rt.kernels.hip.figures import Figures

kernels = typer.Typer(no_args_is_help=True, help="Compile the HIP kernels for GPUs, and see what they need.")
app.add_typer(kernels, name="kernels")

_COLUMNS = {
    "vgprs": "VGPRs",
    "agprs": "AccVGPRs",
    "sgprs": "SGPRs",
    "lds": "LDS",
    "spills": "spills",
    "scratch": "scratch",
    "occupancy": "waves/SIMD",
    "matrix": "MFMA",
    "lds_access": "LDS instr.",
    "global_memory": "global instr.",
}


@kernels.command(epilog="Example: updp-rt kernels build --arch gfx908,gfx90a")
def build(
    arch: Annotated[str, typer.Option(help="Architectures, separated by commas: gfx908, gfx90a, gfx942, sm_90.")] = (
        "gfx908,gfx90a"
    ),
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder; by default the one updp_rt reads.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile again even if nothing has changed.")] = False,
) -> None:
    """Compile HIP's and Triton's kernels for each architecture, on a machine with or without a GPU.

    Of Triton's those that the four model families launch on AMD's GPUs, so that none is compiled when they first run.
    """
    from updp_rt.kernels.hip.build import build as build_objects
    from updp_rt.kernels.hip.manifest import read_manifest

    archs = list(dict.fromkeys(arch.split(",")))
    with counted("compiling") as advance:
        folders = build_objects(archs, folder, force=force, advance=advance)
    for path in folders:
        manifest = read_manifest(path)
        out.print(f"{path}: {len(manifest.kernels)} kernels, {manifest.recipe.compiler}", soft_wrap=True)
        if spilling := [kernel.name for kernel in manifest.kernels if kernel.figures.spills or kernel.figures.scratch]:
            said = f"  {len(spilling)} of them spill registers and are slow so; another compiler may do better"
            out.print(f"{said}: {', '.join(spilling)}", soft_wrap=True)
    if importlib.util.find_spec("triton") is not None:
        _build_triton([name for name in archs if name.startswith("gfx")], folder, force)


def _build_triton(archs: Sequence[str], folder: Path | None, force: bool) -> None:
    from updp_rt.backends.ahead import build_triton
    from updp_rt.kernels.triton import ARCHITECTURES
    from updp_rt.kernels.triton.objects import read_objects

    for arch in archs:
        if arch in ARCHITECTURES:
            with counted(f"compiling Triton's kernels for {arch}") as advance:
                path = build_triton(arch, folder, force=force, advance=advance)
            out.print(f"{path}: {len(read_objects(path))} kernels, Triton's", soft_wrap=True)


@kernels.command(epilog="Example: updp-rt kernels inspect --arch gfx908")
def inspect(
    files: Annotated[list[Path] | None, typer.Argument(help="AMD code objects.", show_default=False)] = None,
    arch: Annotated[str, typer.Option(help="Which of the compiled kernels, if no files are named.")] = "gfx908",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Registers, LDS, spills, occupancy and instructions of each kernel, of any code object or of updp_rt's own."""
    from dataclasses import asdict

    from updp_rt.kernels.hip.figures import amd_figures
    from updp_rt.kernels.hip.objects import load

    if files:
        found = [(name, row) for path in files for name, row in amd_figures(path.read_bytes()).items()]
    else:
        found = [(kernel.name, kernel.figures) for kernel in load(arch).manifest.kernels]
    if json:
        print_json([{"name": name, **asdict(row)} for name, row in found])
        return
    out.print(_table(found))


def _table(found: Sequence[tuple[str, Figures]]) -> Table:
    table = Table(caption="LDS and scratch in bytes; instructions counted in the code", caption_justify="left")
    table.add_column("kernel", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for name, row in found:
        values = (getattr(row, field) for field in _COLUMNS)
        table.add_row(name, *("–" if value is None else f"{value:g}" for value in values))
    return table
