"""``project``: what a model's operators would take on an MI100, by a model of the card; nothing is measured."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, load_or_create, out, parse_dtype, parse_size, print_json
from updp_rt.cli.options import AsJson, ModelOrFolder, Size
from updp_rt.cli.progress import counted


@app.command(epilog="Example: updp-rt project resnet34 --arch gfx908 --batch 128 --dtype float16")
def project(
    model: ModelOrFolder,
    arch: Annotated[str, typer.Option(help="Architecture; gfx908 is the one that is modelled.")] = "gfx908",
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 128,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float16",
    img_size: Size = None,
    backend: Annotated[str, typer.Option(help="Whose kernels: hip, triton or both.")] = "hip,triton",
    json: AsJson = False,
) -> None:
    """Project the time of each fused operator of MODEL on an MI100 (gfx908): a projection, not a measurement.

    Some workgroups of every kernel run on the emulator at the real sizes; what they execute, scaled to the launch,
    gives a time by a stated model (updp_rt/projection/model.py), the resource that bounds it and the share of the
    roofline. What is not projected is listed.
    """
    if arch != "gfx908":
        raise ValueError(f"--arch takes gfx908, the one GPU that is modelled, not {arch!r}")
    kind = parse_dtype(dtype)
    languages = backend.split(",")
    if not set(languages) <= {"hip", "triton"}:
        raise ValueError(f"--backend takes hip, triton or hip,triton, not {backend!r}")
    if importlib.util.find_spec("updp_rt.emulator._core") is None:
        raise ValueError(
            "the emulator is not built; `pip install -e .` in the checkout builds it (needs a C++17 compiler)"
        )
    import torch

    from updp_rt.projection import LABEL
    from updp_rt.projection.report import project_model

    source, input_size = load_or_create(model, parse_size(img_size))
    image = torch.randn(1, *input_size)
    with counted(f"projecting ({LABEL})", show=not json) as advance:
        report = project_model(source, image, batch, kind, languages, advance=advance)
    if json:
        print_json(report.to_dict() | {"model": model})
    elif out.is_terminal:
        out.print(report)
    else:
        print(report)
