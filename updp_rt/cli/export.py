"""``export``: a model as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import DTYPES, load_or_create, out, parse_device, parse_dtype, parse_size, print_json
from updp_rt.cli.options import AsJson, Device, ModelOrFolder, Size

if TYPE_CHECKING:
    from updp_rt.deployment import Exported

# As `updp_rt.deployment.FORMATS` has them, which is slow to import: how files end.
_FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2"}


def _format(name: str) -> str:
    if name not in _FORMATS:
        raise ValueError(f"--format takes {', '.join(_FORMATS)}, not {name!r}")
    return name


@app.command(epilog="Example: updp-rt export deit_p6 --format onnx")
def export(
    model: ModelOrFolder,
    format: Annotated[str, typer.Option("--format", help=f"{', '.join(_FORMATS)}.", callback=_format)],
    file: Annotated[
        Path | None, typer.Option("--out", help="Default: the model's name, in this folder.", show_default=False)
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}. Default: the model's own.")] = None,
    img_size: Size = None,
    device: Device = "cpu",
    keep_kernels: Annotated[
        bool, typer.Option("--keep-kernels", help="With aoti: keep the fused operators, which need updp_rt.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write MODEL as ONNX, as a program of torch.export (pt2), or compiled by AOTInductor (aoti).

    Standard operators, any number of images, and any size where the architecture allows. The file is run and compared
    with float64 before it takes its place; ONNX in ONNX Runtime, where that is installed.
    """
    size, kind, place = parse_size(img_size), parse_dtype(dtype) if dtype else None, parse_device(device)
    if format == "onnx" and place.type != "cpu":
        raise ValueError("an ONNX file is for any device: leave --device out")
    from updp_rt.cli.progress import followed
    from updp_rt.deployment import export as write

    source, input_size = load_or_create(model, size)
    path = file or Path(Path(model).resolve().name + _FORMATS[format])
    with followed(show=not json):
        done = write(source.to(place, kind), path, format, input_size=input_size, keep_kernels=keep_kernels)
    if json:
        print_json(done.to_dict())
        return
    for line in _lines(done):
        out.print(line, soft_wrap=True, markup=False)


def _lines(done: Exported) -> list[str]:
    held, megabytes = done.details, done.path.stat().st_size / 1e6
    opset = f", opset {held['opset']}" if "opset" in held else ""
    beside = f"; its weights, which go with it: {held['weights']}" if held.get("weights") else ""
    lines = [f"{done.path}: {done.format}{opset}, {megabytes:.1f} MB{beside}"]
    lines.append(f"images: {'x'.join(map(str, done.input))}, {done.dtype}")
    if "operators" in held:
        lines.append(f"operators: {', '.join(f'{name} {count}' for name, count in held['operators'].items())}")
    if done.agreements:
        worst = max(done.agreements, key=lambda one: one.error / (one.bound or 1.0))
        shapes = ", ".join("x".join(map(str, one.shape)) for one in done.agreements)
        where = f" in {held['compared_in']}" if "compared_in" in held else ""
        lines.append(f"compared with float64{where} on {shapes}: error {worst.error:.1e}, bound {worst.bound:.1e}")
    else:
        lines.append("not compared: onnxruntime is not installed (pip install 'updp_rt[engines]')")
    return [*lines, f"needs: {done.needs}"]
