"""Commands of the runtime: ``explain`` what an accelerated model runs, and how much faster that is."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, load_or_create, out, parse_device, parse_dtype, parse_size, print_json
from updp_rt.cli.options import AsJson, Device, ModelOrFolder, Size


@app.command(epilog="Example: updp-rt explain deit_tiny_patch16_224 --batch 8 --dtype bfloat16")
def explain(
    model: ModelOrFolder,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float32",
    img_size: Size = None,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Accelerate MODEL and tell, module by module, which kernel runs, why, how fast, and its share of the roofline.

    What is measured is kept in the tuned table, so serving the same shapes later starts at once.
    """
    size, place, kind = parse_size(img_size), parse_device(device), parse_dtype(dtype)
    import torch

    import updp_rt
    from updp_rt._timing import time_side_by_side

    source, input_size = load_or_create(model, size)
    source = source.to(place, kind)
    images = torch.randn(batch, *input_size).to(place, kind)
    fast = updp_rt.accelerate(source, images)
    explanation = updp_rt.explain(fast)
    with torch.inference_mode():
        calls = {"eager": partial(source, images), "accelerated": partial(fast, images)}
        times = time_side_by_side(calls, round_seconds=0.1, rounds=7, device=images.device)
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
