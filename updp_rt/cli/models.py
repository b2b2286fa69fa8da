"""Commands about models and this machine: ``inspect``, ``info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import load_or_create, out, parse_size, print_json
from updp_rt.cli.options import AsJson, ModelOrFolder, Size

if TYPE_CHECKING:
    from torch import nn

    from updp_rt.pruning import LatencyTable


@app.command(epilog="Example: updp-rt inspect mobilenetv2_100")
def inspect(
    model: ModelOrFolder,
    img_size: Size = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time every block and its merged forms here, on a GPU if there is one.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at once, with --latency.")] = 8,
    json: AsJson = False,
) -> None:
    """List every block of MODEL: prunable or why not, its cost, and what it would merge into."""
    size = parse_size(img_size)
    from rich.table import Table

    from updp_rt.blocks import inspect as inspect_model

    created, input_size = load_or_create(model, size)
    report = inspect_model(created, input_size)
    times = _measure(created, batch, input_size) if latency else None
    if json:
        print_json({**report.to_dict(), **({"latency": times.model_dump()} if times else {})})
        return
    channels, height, width = report.input_size
    table = Table(title=f"{report.model} ({report.family} family) at {channels}x{height}x{width}", title_justify="left")
    for column in ("block", "kind"):
        table.add_column(column)
    for column in ("params", "MACs", *(["latency"] if times else [])):
        table.add_column(column, justify="right")
    table.add_column(f"merges into (params, MACs{', latency' if times else ''}), or why not")
    for block in report.blocks:
        measured = times.blocks.get(block.name) if times else None
        forms = measured.by_label() if measured else {}
        merged = "\n".join(
            f"{form}: {_count(cost.params)}, {_count(cost.macs)}" + (f", {forms[form]:.3g} ms" if form in forms else "")
            for form, cost in block.merged.items()
        )
        row = [block.name, block.kind, _count(block.cost.params), _count(block.cost.macs)]
        if times:
            row.append(f"{measured.baseline_ms:.3g} ms" if measured else "")
        table.add_row(*row, merged or f"no: {block.reason}", style=None if block.reason is None else "dim")
    table.caption = (
        f"{report.prunable} of {len(report.blocks)} blocks can be pruned; "
        f"the model has {_count(report.cost.params)} parameters and {_count(report.cost.macs)} MACs per image"
    )
    if times:
        fastest = times.estimate_ms(times.saving())
        table.caption += (
            f", and takes {times.model_ms:.3g} ms for {batch} on {times.device}, or "
            f"{fastest:.3g} ms ({times.model_ms / fastest:.2f}×) with every block merged that is faster so"
        )
    table.caption_justify = "left"
    out.print(table)


def _measure(model: nn.Module, batch: int, input_size: tuple[int, int, int]) -> LatencyTable:
    import torch

    from updp_rt.cli.common import parse_device
    from updp_rt.pruning import measure_latency
    from updp_rt.pruning.progress import Progress

    device = parse_device("auto")
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    return measure_latency(model.to(device), images, Progress())


@app.command(epilog="Example: updp-rt info --json")
def info(json: AsJson = False) -> None:
    """Versions, devices, what can run here, and what is missing for more: what a bug report starts with."""
    import os

    import torch

    from updp_rt.artifacts import versions
    from updp_rt.blocks import FAMILIES
    from updp_rt.runtime.installation import missing, triton_version

    names = ("accelerate", "optuna", "safetensors", "numpy")
    found = versions() | {"triton": triton_version() or "not installed"} | {name: _version(name) for name in names}
    devices = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    devices += [
        f"gpu {i}: {torch.cuda.get_device_name(i)}, {_architecture(i)}" for i in range(torch.cuda.device_count())
    ]
    gpu = torch.cuda.is_available()
    can_run = {
        "depth pruning (supernet, search, progressive training, merge)": "yes",
        "several GPUs (torchrun, accelerate launch)": "yes" if torch.cuda.device_count() > 1 else "one process only",
        "fused kernels": _fused_kernels("cuda" if gpu else "cpu"),
        "GPU": ("ROCm" if torch.version.hip else "CUDA") if gpu else "none found: everything runs on the CPU",
    }
    families = {family.name: family.example for family in FAMILIES}
    lacking = {lack.what: lack.mend for lack in missing()}
    if json:
        report = {"versions": found, "devices": devices, "can_run": can_run, "families": families, "missing": lacking}
        print_json(report)
        return
    for title, entries in (("versions", found), ("can run", can_run), ("families", families)):
        out.print(f"[bold]{title}[/bold]")
        for key, value in entries.items():
            out.print(f"  {key}: {value}")
    out.print("[bold]devices[/bold]")
    for device in devices:
        out.print(f"  {device}")
    if lacking:
        out.print("[bold]missing, and the command that mends it[/bold]")
    for what, mend in lacking.items():
        out.print(f"  {what}: {mend}", soft_wrap=True, markup=False)


def _fused_kernels(device: str) -> str:
    """Which backends run a plain linear layer here, by dtype, and why others do not."""
    import torch

    from updp_rt.backends import BACKENDS
    from updp_rt.ops import LINEAR, Problem

    shown = []
    for name, backend in BACKENDS.items():
        runs, why = [], ""
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            problem = Problem.make(LINEAR, dtype, device, x=(64, 64), weight=(64, 64), bias=(64,), act="none")
            supported, reason = backend.supports(problem)
            runs += [str(dtype).removeprefix("torch.")] if supported else []
            why = why or reason
        shown.append(f"{name} ({', '.join(runs) or f'no: {why}'})")
    return "; ".join(shown)


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _architecture(index: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return getattr(properties, "gcnArchName", None) or f"sm_{properties.major}{properties.minor}"


def _count(value: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
