"""``channels``: prune the channels of a model, and show what that saves."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import check_classes, load_or_create, out, parse_size, print_json, saved_folder
from updp_rt.cli.images import ImageOptions, preprocessing_of, reads_images, show_images
from updp_rt.cli.options import AsJson, Channels, ModelOrFolder, Size

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from updp_rt.channels import ChannelResult
    from updp_rt.data import Splits

Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="PATTERN=SHARE", help="Largest share that layers of this name may lose, such as fc=0.2."
    ),
]


@app.command(epilog="Example: updp-rt channels densenet121 --amount 0.5 --out densenet121_c50")
@reads_images()
def channels(
    model: ModelOrFolder,
    amount: Annotated[float, typer.Option(help="Share to remove: see --scope.")] = 0.5,
    importance: Annotated[str, typer.Option(help="magnitude, lamp, fpgm or hrank (needs --data).")] = "lamp",
    scope: Annotated[str, typer.Option(help="global: of the parameters; local: of each layer's inputs.")] = "global",
    copies: Annotated[str, typer.Option(help="cheapest, fewest (more arithmetic instead), or naive.")] = "cheapest",
    limits: Limits = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, fashion-mnist, an image folder, wds/PATH ...: to choose by, and for accuracy."),
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="timm's pretrained weights.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to prune (safetensors or torch).")] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(help="Number of classes, if the data's folders don't say; by default the architecture's."),
    ] = None,
    in_chans: Channels = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once, as they will be served.")] = 1,
    img_size: Size = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds in which latencies are measured.")] = 15,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the pruned model and channels.png.")
    ] = None,
    json: AsJson = False,
    *,
    images: ImageOptions,
) -> None:
    """Prune MODEL's channels without constraints: every layer keeps the inputs it wants; reordering saves the copies.

    Shows what each layer keeps and how it reads that, channels copied before and after reordering, and the latency of
    the baseline, of constrained pruning by the same amount, of the naive export and of the reordered one.
    """
    images.need(data)
    settings: dict[str, Any] = {"amount": amount, "importance": importance, "scope": scope}
    settings["limits"] = _parse_limits(limits or [])
    size = parse_size(img_size)
    import torch

    import updp_rt
    from updp_rt._timing import time_side_by_side
    from updp_rt.artifacts import create_model
    from updp_rt.artifacts.preprocessing import set_preprocessing

    saved = saved_folder(model)
    if saved is not None and (pretrained or any(x is not None for x in (checkpoint, num_classes, in_chans))):
        raise ValueError(
            f"{model} has weights, classes and channels of its own: drop --pretrained, --checkpoint, --num-classes, "
            "--in-chans"
        )
    source, (own_channels, *edges) = load_or_create(model, size)
    input_size = (in_chans or own_channels, edges[0], edges[1])
    splits = None
    if data:
        fits = size is not None or saved is not None
        how = preprocessing_of(model, source)
        splits = images.load(data, input_size, preprocessing=how, num_classes=num_classes, enlarge=fits)
        num_classes = splits.num_classes  # of folders, as they are counted; of others, as given
    if saved is None:
        source = create_model(
            model,
            size=size,
            num_classes=num_classes,
            in_chans=in_chans,
            pretrained=pretrained,
            checkpoint=checkpoint,
        ).eval()
    if splits is not None:
        check_classes(source, splits, data, pretrained=pretrained)
        set_preprocessing(source, splits.preprocessing, input_size)
        show_images(splits)
    settings["images"] = _images(splits) if splits is not None else None
    example = torch.randn(batch, *input_size)
    with out.status("pruning and exporting", spinner="line"):
        result = updp_rt.prune_channels(source, example, **settings, copies=copies)
        naive = updp_rt.prune_channels(source, example, masks=result.masks, copies="naive")
        constrained = updp_rt.prune_channels(source, example, **settings, constrained=True)
    models = {"baseline": source, "constrained": constrained.model, "naive": naive.model, "reordered": result.model}
    with out.status("measuring latencies", spinner="line"), torch.inference_mode():
        times = time_side_by_side({name: partial(each, example) for name, each in models.items()}, rounds=rounds)
    costs = dict(
        zip(models, (result.cost, constrained.pruned_cost, naive.pruned_cost, result.pruned_cost), strict=True)
    )
    summary = {
        **result.to_dict(),
        "batch": batch,
        "latency_ms": {name: seconds * 1e3 for name, seconds in times.items()},
        "params": {name: cost.params for name, cost in costs.items()},
        "macs": {name: cost.macs for name, cost in costs.items()},
        "accuracy": _accuracies(models, splits),
    }
    if out_folder is not None:
        from updp_rt.cli.channel_figure import draw_channels

        updp_rt.save(result.model, out_folder, input_size=input_size)
        draw_channels(summary, out_folder / "channels.png")
    if json:
        print_json(summary)
        return
    out.print(_layer_table(result))
    out.print(_export_table(summary))
    for note in _join_alike(result.notes):
        out.print(f"[dim]{note}[/dim]", soft_wrap=True)
    if out_folder is not None:
        out.print(f"pruned model: {out_folder}   picture: {out_folder / 'channels.png'}", soft_wrap=True)


def _join_alike(notes: Iterable[str]) -> list[str]:
    """Notes that say the same of several places as one."""
    places: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        place, _, what = note.partition(": ")
        places.setdefault(what, []).append(place)
    return [f"{at[0]}{f' and {len(at) - 1} more' if at[1:] else ''}: {what}" for what, at in places.items()]


def _parse_limits(limits: list[str]) -> dict[str, float]:
    parsed = {}
    for limit in limits:
        pattern, equals, share = limit.rpartition("=")
        try:
            parsed[pattern] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"--limit takes PATTERN=SHARE, such as 'layer4.*=0.2', not {limit!r}")
    return parsed


def _images(splits: Splits, count: int = 32) -> Tensor:
    """The first few training images: to take ranks of feature maps of, and to compare outputs on."""
    from updp_rt.data import make_loader

    images: Tensor = next(iter(make_loader(splits.train, count, training=False)))[0]
    return images


def _accuracies(models: dict[str, nn.Module], splits: Splits | None) -> dict[str, float] | None:
    if splits is None:
        return None
    from updp_rt.data import make_loader
    from updp_rt.pruning.trainer import evaluate

    loader = make_loader(splits.test, 256, training=False)
    with out.status("evaluating", spinner="line"):
        return {name: evaluate(model, loader) for name, model in models.items()}


def _layer_table(result: ChannelResult) -> Table:
    from rich.table import Table

    table = Table(title="what each layer reads", title_justify="left")
    table.add_column("layer")
    for column in ("inputs", "kept", "read"):
        table.add_column(column, justify="right")
    table.add_column("how")
    for layer in result.layers:
        place = "" if layer.at == layer.name or layer.how == "all" else f" before {layer.at}"
        table.add_row(layer.name, str(layer.inputs), str(layer.kept), str(layer.read), layer.how + place)
    gone = 1 - result.copies.gathered / max(1, result.naive.gathered)
    optimum = "" if result.optimum is None else f", {result.optimum} at best by reordering alone"
    table.caption = (
        f"gathered channels: {result.naive.gathered} naive, {result.copies.gathered} reordered ({100 * gone:.0f}% gone"
        f"{optimum}); written by concatenations: {result.naive.concatenated} and {result.copies.concatenated}; largest "
        f"difference from the masked model {result.error:.0e}, in {result.precision}"
    )
    table.caption_justify = "left"
    return table


def _export_table(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"{summary['architecture']}, batch {summary['batch']}", title_justify="left")
    columns = ["", "params", "MACs", "latency", "speedup"] + (["accuracy"] if summary["accuracy"] else [])
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    latency = summary["latency_ms"]
    for name in latency:
        row = [
            name,
            f"{summary['params'][name] / 1e6:.2f} M",
            f"{summary['macs'][name] / 1e6:.1f} M",
            f"{latency[name]:.2f} ms",
            f"{latency['baseline'] / latency[name]:.2f}×",
        ]
        table.add_row(*row, *([f"{100 * summary['accuracy'][name]:.2f}%"] if summary["accuracy"] else []))
    return table
