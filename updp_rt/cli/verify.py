"""``verify``: that an accelerated model computes what its source does."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from updp_rt.cli.app import app
from updp_rt.cli.check import check as check_command
from updp_rt.cli.common import (
    DTYPES,
    out,
    parse_device,
    parse_dtype,
    parse_size,
    print_json,
    saved_folder,
)
from updp_rt.cli.images import ImageOptions, reads_images
from updp_rt.cli.options import MODEL_OR_FOLDER, AsJson, Device, Engine, Size, model_or_folder

if TYPE_CHECKING:
    from updp_rt.verification import Certificate


@app.command(
    epilog="Example: updp-rt verify runs/deit-p6 --data imagenet/"
    "\n\nAgain: updp-rt verify --check deit_p6/certificate.json"
)
@reads_images()
def verify(
    target: Annotated[
        str | None, typer.Argument(help=MODEL_OR_FOLDER, show_default=False, callback=model_or_folder)
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="CERT", help="Verify again the model beside this certificate.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="As `updp-rt check`, which does it.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once: the shape that is certified.")] = 8,
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}. Default: the first.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Validation images of digits, fashion-mnist, a folder ... Default: random."),
    ] = None,
    device: Device = "auto",
    engine: Engine = "modules",
    prune: Annotated[str, typer.Option("--prune", help="With --model.")] = "all",
    img_size: Size = None,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn: images, adversarial inputs, weights.")] = 0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The certificate. Default: certificate.json in the model's folder.")
    ] = None,
    json: AsJson = False,
    *,
    images: ImageOptions,
) -> None:
    """Accelerate a model, compare every fused module with float64, and write the certificate.

    Each module is run on the inputs it really sees and on adversarial ones, then the whole model on the images. A
    module passes if it is nowhere further off than twice what torch's own operators are in that dtype. With --check the
    same is done again, on the same images, and what has changed since is named.

    Exit status 1 if anything is above its bound.
    """
    if (model is None) == (target is None and check is None):
        raise ValueError("name a model's folder, or give --check CERT, or --model NAME: see updp-rt verify --help")
    images.need(data)
    if model is not None:
        print("updp-rt: verify --model is a command of its own now: updp-rt check", file=sys.stderr)
        check_command(model, prune, dtype or "float64", img_size, seed, json)
        return
    size, kind, place = parse_size(img_size), parse_dtype(dtype or DTYPES[0]), parse_device(device)

    from updp_rt.cli.progress import followed
    from updp_rt.data.named import RANDOM, name_images
    from updp_rt.runtime.certificates import certify, certify_again
    from updp_rt.verification import Certificate

    how: dict[str, Any] = {"device": place, "tell": partial(print, file=sys.stderr)}
    new: dict[str, Any] = {"batch": batch, "dtype": kind, "size": size, "seed": seed, "engine": engine}
    since: dict[str, Any] = {}
    if check is not None:
        old, named = Certificate.load(check), target or str(check.parent)
        with followed(show=not json):
            certificate, changes = certify_again(old, saved_folder(named) or named, **how)
        since = {"certified": old.passed, "changes": changes}
        path = out_file
    else:
        assert target is not None
        folder = saved_folder(target)
        source = name_images(data, images.transforms, images.class_map) if data else RANDOM
        with followed(show=not json):
            certificate = certify(folder or target, source, **new, **how)
        path = out_file or (folder / "certificate.json" if folder else None)
    if path is not None:
        certificate.save(path)
    if json:
        print_json({**certificate.model_dump(mode="json"), **since})
    else:
        if check is not None:
            for change in since["changes"]:
                out.print(f"since the certificate: {change}", markup=False)
            out.print(f"the certificate says: {'passed' if since['certified'] else 'failed'}; verified again:")
        _show(certificate, path)
    raise typer.Exit(0 if certificate.passed else 1)


def _show(certificate: Certificate, path: Path | None) -> None:
    from rich.table import Table

    inputs = certificate.inputs
    shape = "x".join(map(str, inputs.shape))
    title = f"{certificate.model.architecture}: {certificate.dtype}, {shape} ({inputs.source})"
    table = Table(title=title, title_justify="left")
    for column in ("module", "kernels", "worst on"):
        table.add_column(column, overflow="fold")
    for column in ("error", "torch's own", "bound", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for module in certificate.modules:
        kernels = ", ".join(dict.fromkeys(kernel.kernel for kernel in module.kernels))
        worst = max(module.cases, key=lambda case: (not case.passed, case.error / (case.bound or 1)), default=None)
        if worst is None:
            table.add_row(module.name, kernels, "not reached", style="dim")
            continue
        figures = (f"{value:.1e}" for value in (worst.error, worst.torch_error, worst.bound))
        verdict, style = ("passed", None) if module.passed else ("FAILED", "red")
        table.add_row(module.name, kernels, worst.inputs, *figures, verdict, style=style)
    logits = certificate.logits
    figures = (f"{value:.1e}" for value in (logits.error, logits.torch_error, logits.bound))
    verdict, style = ("passed", None) if logits.passed else ("FAILED", "red")
    table.add_section()
    table.add_row("logits", "", "seen", *figures, verdict, style=style)
    table.caption = (
        f"top-1: the source's on {logits.agree} of {logits.samples} images; the exact one on "
        f"{logits.decided - logits.disagree} of the {logits.decided} whose margin is beyond the bound"
    )
    table.caption_justify = "left"
    out.print(table)
    out.print(str(certificate), style="green" if certificate.passed else "red", markup=False)
    if path is not None:
        out.print(f"certificate: {path}", soft_wrap=True, markup=False)
