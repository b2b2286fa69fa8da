"""Commands about models and this machine: ``inspect``, ``info``."""

from __future__ import annotations

from updp_rt.cli.app import app
from updp_rt.cli.common import out, parse_size, print_json
from updp_rt.cli.options import AsJson, ModelName, Size


@app.command(epilog="Example: updp-rt inspect mobilenetv2_100")
def inspect(model: ModelName, img_size: Size = None, json: AsJson = False) -> None:
    """List every block of MODEL: prunable or why not, its cost, and what it would merge into."""
    size = parse_size(img_size)
    from rich.table import Table

    from updp_rt.artifacts import create_model
    from updp_rt.blocks import inspect as inspect_model
    from updp_rt.blocks import model_input_size

    created = create_model(model, size=size)
    report = inspect_model(created, (model_input_size(created)[0], *size) if size else None)
    if json:
        print_json(report.to_dict())
        return
    channels, height, width = report.input_size
    table = Table(title=f"{report.model} ({report.family} family) at {channels}x{height}x{width}", title_justify="left")
    for column in ("block", "kind"):
        table.add_column(column)
    for column in ("params", "MACs"):
        table.add_column(column, justify="right")
    table.add_column("merges into (params, MACs), or why not")
    for block in report.blocks:
        merged = "\n".join(f"{form}: {_count(cost.params)}, {_count(cost.macs)}" for form, cost in block.merged.items())
        row = (block.name, block.kind, _count(block.cost.params), _count(block.cost.macs))
        table.add_row(*row, merged or f"no: {block.reason}", style=None if block.reason is None else "dim")
    table.caption = (
        f"{report.prunable} of {len(report.blocks)} blocks can be pruned; "
        f"the model has {_count(report.cost.params)} parameters and {_count(report.cost.macs)} MACs an image"
    )
    table.caption_justify = "left"
    out.print(table)


@app.command(epilog="Example: updp-rt info --json")
def info(json: AsJson = False) -> None:
    """Versions, devices, and what can run here: what a bug report starts with."""
    import os

    import torch

    from updp_rt.artifacts import versions
    from updp_rt.blocks import FAMILIES

    names = ("triton", "accelerate", "optuna", "safetensors", "numpy")
    found = versions() | {name: _version(name) for name in names}
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
    if json:
        print_json({"versions": found, "devices": devices, "can_run": can_run, "families": families})
        return
    for title, entries in (("versions", found), ("can run", can_run), ("families", families)):
        out.print(f"[bold]{title}[/bold]")
        for key, value in entries.items():
            out.print(f"  {key}: {value}")
    out.print("[bold]devices[/bold]")
    for device in devices:
        out.print(f"  {device}")


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
