"""Commands of the runtime: ``explain`` what an accelerated model runs, ``tune`` a table of measurements to share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, load_or_create, out, parse_device, parse_dtype, parse_size, print_json
from updp_rt.cli.options import AsJson, Device, Engine, ModelOrFolder, Size


@app.command(epilog="Example: updp-rt explain deit_tiny_patch16_224 --batch 8 --dtype bfloat16")
def explain(
    model: ModelOrFolder,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    img_size: Size = None,
    device: Device = "auto",
    engine: Engine = "modules",
    json: AsJson = False,
) -> None:
    """Accelerate MODEL and tell, module by module, which kernel runs, why, how fast, and its share of the roofline.

    What is measured is kept in the tuned table, so serving the same shapes later starts at once.
    """
    size, place, kind = parse_size(img_size), parse_device(device), parse_dtype(dtype)
    import torch

    import updp_rt
    from updp_rt._timing import time_side_by_side
    from updp_rt.cli.progress import followed

    source, input_size = load_or_create(model, size)
    source = source.to(place, kind)
    images = torch.randn(batch, *input_size).to(place, kind)
    with followed(show=not json):
        fast = updp_rt.accelerate(source, images, engine=engine)
        explanation = updp_rt.explain(fast, images)
        with torch.inference_mode():
            calls = {"eager": partial(source, images), "accelerated": partial(fast, images)}
            times = time_side_by_side(calls, round_seconds=0.1, rounds=7, device=images.device, what="timing")
    if json:
        milliseconds = {name: seconds * 1e3 for name, seconds in times.items()}
        print_json(explanation.to_dict() | {"model_ms": milliseconds})
        return
    if out.is_terminal:
        out.print(explanation)
    else:
        print(explanation)
    out.print(
        f"{model}, batch {batch}, {dtype}: eager {times['eager'] * 1e3:.2f} ms, accelerated "
        f"{times['accelerated'] * 1e3:.2f} ms, {times['eager'] / times['accelerated']:.2f}×"
    )


@app.command(epilog="Example: updp-rt tune deit_tiny_patch16_224 --batch 1,128 --dtype float16 --out mi100.json")
def tune(
    model: ModelOrFolder,
    batch: Annotated[str, typer.Option(help="Images at once; several numbers with commas between.")] = "1",
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    img_size: Size = None,
    device: Device = "auto",
    file: Annotated[Path, typer.Option("--out", help="The table; added to where it is there.")] = Path("tuned.json"),
    json: AsJson = False,
) -> None:
    """Measure all kernels on every shape of MODEL, and write a table that others read: UPDP_RT_TABLE=tuned.json.

    A table holds for one device, its library versions and the kernels of this version of updp_rt; others are told that
    it does not, and measure. Each kernel is still checked against float64 in every process.
    """
    size, place, kind, batches = parse_size(img_size), parse_device(device), parse_dtype(dtype), _batches(batch)
    import torch

    import updp_rt
    from updp_rt.cli.progress import followed
    from updp_rt.runtime.table import table_for

    source, input_size = load_or_create(model, size)
    source = source.to(place, kind)
    images = [torch.randn(count, *input_size).to(place, kind) for count in batches]
    with followed(show=not json):
        rows = updp_rt.explain(updp_rt.accelerate(source, images, inplace=True, measure="all")).rows
    table = table_for(images[0].device)
    table.export(file, [row.problem for row in rows])
    measured = {row.problem: row.times_ms for row in rows}
    if json:
        print_json({"model": model, "out": str(file), "environment": table.environment, "times_ms": measured})
    else:
        kernels = sum(map(len, measured.values()))
        out.print(f"{len(measured)} shapes, {kernels} times measured, written: {file}", soft_wrap=True)


def _batches(text: str) -> list[int]:
    counts = text.split(",")
    if not all(count.isdecimal() and int(count) for count in counts):
        raise ValueError(f"--batch takes numbers of images with commas between, such as 1,128, not {text!r}")
    return [int(count) for count in counts]
