"""``verify``: that an accelerated model computes what its source does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.check import check as check_command
from updp_rt.cli.common import (
    DTYPES,
    load_or_create,
    out,
    parse_device,
    parse_dtype,
    parse_size,
    print_json,
    saved_folder,
)
from updp_rt.cli.images import ImageOptions, preprocessing_of, reads_images, show_images
from updp_rt.cli.options import MODEL_OR_FOLDER, AsJson, Size, model_or_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from updp_rt.artifacts.preprocessing import Preprocessing
    from updp_rt.verification import Certificate

_RANDOM = "random normal"
_VALIDATION = ", validation"  # and perhaps, apart by a comma, the options of pictures
_ANY_CLASS = 1_000_000  # labels are not looked at


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
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}.  [default: the first]")] = None,
    data: Annotated[
        str | None, typer.Option(help="Validation images of: digits, an image folder, wds/PATH.  [default: random]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda (AMD's GPUs too), or auto: a GPU if there is one.")] = "auto",
    prune: Annotated[str, typer.Option("--prune", help="With --model.")] = "all",
    img_size: Size = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn: images, adversarial inputs, weights.")] = 0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The certificate.  [default: certificate.json in the model's folder]")
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
    elif check is not None:
        _check_again(check, target or str(check.parent), device, out_file, json)
    else:
        assert target is not None
        options = images.to_text()
        source = f"{data}{_VALIDATION}{f', {options}' if options else ''}" if data else _RANDOM
        size = parse_size(img_size)
        certificate = certify(target, source, batch, dtype or DTYPES[0], size, device, seed, show_progress=not json)
        folder = saved_folder(target)
        path = out_file or (folder / "certificate.json" if folder else None)
        if path is not None:
            certificate.save(path)
        _show(certificate, path, json)


def certify(
    target: str,
    source: str,
    batch: int = 8,
    dtype: str = DTYPES[0],
    size: tuple[int, int] | None = None,
    device: str = "auto",
    seed: int = 0,
    *,
    show_progress: bool = True,
) -> Certificate:
    """Load, accelerate and verify the model at `target` on the images that `source` names."""
    kind, place = parse_dtype(dtype), parse_device(device)
    import torch

    import updp_rt

    torch.manual_seed(seed)  # a timm model's weights, so that they can be drawn again
    merged, input_size = load_or_create(target, size)
    images = _images(source, (batch, *input_size), seed, preprocessing_of(target, merged)).to(place, kind)
    merged = merged.to(place, kind)
    fast = updp_rt.accelerate(merged, images)
    return updp_rt.verify(merged, fast, images, seed=seed, source=source, show_progress=show_progress)


def _images(
    source: str, shape: tuple[int, int, int, int], seed: int, preprocessing: nn.Module | Preprocessing
) -> Tensor:
    """The images that a certificate's ``inputs`` names, float32 ``[N, C, H, W]``."""
    import torch

    from updp_rt.data import first_images, make_loader

    batch, channels, height, width = shape
    name, separator, options = source.rpartition(_VALIDATION)
    if separator:
        given = ImageOptions.from_text(options.removeprefix(", "))
        splits = given.load(
            name,
            (channels, height, width),
            preprocessing=preprocessing,
            num_classes=_ANY_CLASS if name.startswith("wds/") else None,
        )
        images = first_images(make_loader(splits.val, batch, training=False), batch)
        if len(images) < batch:
            raise ValueError(f"{name!r} has {len(images)} validation images: give --batch {len(images)} or less")
        show_images(splits)
        return images
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _check_again(path: Path, target: str, device: str, out_file: Path | None, json: bool) -> None:
    from updp_rt.verification import Certificate

    old = Certificate.load(path)
    batch, _, height, width = old.inputs.shape
    new = certify(
        target, old.inputs.source, batch, old.dtype, (height, width), device, old.inputs.seed, show_progress=not json
    )
    if new.model != old.model:
        raise ValueError(
            f"{path} is of {old.model.architecture} with weights {old.model.weights_sha256[:12]}…, {target} holds "
            f"{new.model.architecture} with {new.model.weights_sha256[:12]}…: verify that model by itself"
        )
    changes = _changes(old, new)
    if out_file is not None:
        new.save(out_file)
    if json:
        print_json({**new.model_dump(mode="json"), "certified": old.passed, "changes": changes})
    else:
        for change in changes:
            out.print(f"since the certificate: {change}", markup=False)
        out.print(f"the certificate says: {'passed' if old.passed else 'failed'}; verified again:")
        _show(new, out_file, json)
    raise typer.Exit(0 if new.passed else 1)


def _changes(old: Certificate, new: Certificate) -> list[str]:
    """What is no longer as it was when the certificate was made."""
    before = {**old.environment, **{f"sources of {name}": value for name, value in old.sources.items()}}
    after = {**new.environment, **{f"sources of {name}": value for name, value in new.sources.items()}}
    found = [
        f"{key}: {before.get(key, 'absent')} then, {after.get(key, 'absent')} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    if old.inputs.sha256 != new.inputs.sha256:
        found.append(f"images: {old.inputs.source} then, other ones ({new.inputs.source}, same shape) now")
    then = {(m.name, k.problem): k.kernel for m in old.modules for k in m.kernels}
    now = {(m.name, k.problem): k.kernel for m in new.modules for k in m.kernels}
    other = sum(then.get(key) != kernel for key, kernel in now.items())
    if other:
        found.append(f"kernels: {other} of {len(now)} problems run on another one")
    return found


def _show(certificate: Certificate, path: Path | None, json: bool) -> None:
    from rich.table import Table

    if json:
        print_json(certificate.model_dump(mode="json"))
        raise typer.Exit(0 if certificate.passed else 1)
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
    raise typer.Exit(0 if certificate.passed else 1)
