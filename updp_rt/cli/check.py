"""``check``: that pruning a model is exact at both ends."""

from __future__ import annotations

from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import out, parse_size, print_json
from updp_rt.cli.options import AsJson, ModelName, Size


@app.command(epilog="Example: updp-rt check resnet34")
def check(
    model: ModelName,
    prune: Annotated[str, typer.Option("--prune", help="'all', or how many blocks.")] = "all",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    img_size: Size = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, images and the blocks that are drawn.")] = 0,
    json: AsJson = False,
) -> None:
    """Check the algebra on MODEL: λ = 0 is the timm model, and λ = 1 is the merged model.

    Random statistics are drawn, so that defaults hide nothing. Every block is compared on the input it gets in the
    whole model, in float64 to 1e-12; then the logits, as far as rounding that small can move them.

    Exit status 1 if anything is above its bound.
    """
    if prune != "all" and not prune.isdigit():
        raise ValueError(f"--prune takes 'all' or a number of blocks, not {prune!r}")
    if dtype not in ("float64", "float32"):
        raise ValueError(f"--dtype takes float64 or float32, not {dtype!r}")
    size = parse_size(img_size)
    import torch
    from rich.table import Table

    from updp_rt.artifacts import create_model
    from updp_rt.blocks import check_model, model_input_size
    from updp_rt.cli.progress import followed

    torch.manual_seed(seed)
    created = create_model(model, size=size)
    with followed(show=not json):
        verdict = check_model(
            created,
            prune=None if prune == "all" else int(prune),
            dtype=getattr(torch, dtype),
            input_size=(model_input_size(created)[0], *size) if size else None,
            seed=seed,
        )
    if json:
        print_json(verdict.to_dict())
        raise typer.Exit(0 if verdict.passed else 1)
    title = f"{verdict.model}: {len(verdict.pruned)} blocks, {verdict.dtype}"
    table = Table("merged form", title=title, title_justify="left", caption_justify="left")
    for column in ("λ=0 against timm: blocks", "logits", "λ=1 against merged: interior", "border", "logits"):
        table.add_column(column, justify="right")
    for row in verdict.checks:
        start = (row.lambda0_error, row.lambda0_error_logits)
        end = (row.merge_error_interior, row.merge_error_border, row.merge_error_logits)
        table.add_row(row.form, *(f"{error:.1e}" for error in (*start, *end)))
    table.caption = (
        f"largest relative error; bound {verdict.bound:.1e} of blocks, {verdict.bound_logits:.1e} of logits: "
        f"{'PASSED' if verdict.passed else 'FAILED'}"
    )
    out.print(table)
    raise typer.Exit(0 if verdict.passed else 1)
