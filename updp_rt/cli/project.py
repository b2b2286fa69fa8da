"""``project``: what a whole model would take on an MI100, by a model of the card; nothing is measured."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, load_or_create, out, parse_dtype, parse_size, print_json
from updp_rt.cli.options import AsJson, ModelOrFolder, Size
from updp_rt.cli.progress import counted


@app.command(epilog="Example: updp-rt project resnet34 --batch 128 --dtype float16 --num-pruned 6")
def project(
    model: ModelOrFolder,
    arch: Annotated[str, typer.Option(help="Architecture; gfx908 is the one that is modelled.")] = "gfx908",
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 128,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "float16",
    num_pruned: Annotated[
        int, typer.Option(min=0, help="First merge so many blocks of MODEL: those that save most by projection.")
    ] = 0,
    img_size: Size = None,
    backend: Annotated[str, typer.Option(help="Whose kernels: hip, triton or both.")] = "hip,triton",
    json: AsJson = False,
) -> None:
    """Project the time of the whole of MODEL on an MI100 (gfx908): a projection, not a measurement.

    Some workgroups of every fused kernel run on the emulator at the real sizes; what they execute, scaled to the
    launch, gives a time by a stated model (updp_rt/projection/model.py), the resource that bounds it and the share of
    the roofline. Kernels that are left to torch are counted with the reason, by the least time that their bytes and
    FLOPs take; and so is the model unfused, as torch would run it there. Launches are counted apart.
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
    from updp_rt.projection import LABEL
    from updp_rt.projection.report import Kernels, project_model

    source, size = load_or_create(model, parse_size(img_size))
    kernels = Kernels(languages)
    if num_pruned:
        from updp_rt.projection.choice import check_count, merge_fastest, project_latency

        check_count(source, num_pruned)
        with counted(f"choosing blocks ({LABEL})", show=not json) as advance:
            latency = project_latency(source, size, batch, kind, kernels, advance)
        source = merge_fastest(source, latency, num_pruned)
    with counted(f"projecting ({LABEL})", show=not json) as advance:
        report = project_model(source, size, batch, kind, kernels, advance)
    if json:
        print_json(report.to_dict() | {"model": model, "num_pruned": num_pruned})
    elif out.is_terminal:
        out.print(report)
    else:
        print(report)
