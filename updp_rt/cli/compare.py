"""``updp-rt compare``: methods against each other on one model, under one budget."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import load_or_create, out, parse_size, print_json
from updp_rt.cli.images import ImageOptions, preprocessing_of, reads_images
from updp_rt.cli.options import AsJson, ModelOrFolder, Size
from updp_rt.cli.prune import Settings
from updp_rt.cli.settings import read_settings
from updp_rt.cli.start import Data, NumClasses

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from updp_rt.comparison import Comparison

_EVERY = "those of prune --method, and of width: channels, channels-constrained, torch-pruning. "
_EVERY += "Separated by commas; NAME:SETTING=VALUE has a setting of its own, or its goal: updp:target_speedup=1.5."


@app.command(
    epilog="Example: updp-rt compare small_resnet --data fashion-mnist --methods updp,updp:direct=true,drop,dp "
    "--num-pruned 3,4 --seeds 3 --train-images 12000"
)
@reads_images(training=True)
def compare(
    model: ModelOrFolder,
    methods: Annotated[str, typer.Option(help=f"Which: {_EVERY}", show_default=False)],
    data: Data = "digits",
    num_pruned: Annotated[str, typer.Option(help="Numbers of blocks to prune, such as 3,6.")] = "",
    amounts: Annotated[str, typer.Option(help="Of methods of width, shares of the parameters: 0.3,0.5.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Repeats, from seed 0.")] = 3,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for results. Default: runs/compare-MODEL.")
    ] = None,
    num_classes: NumClasses = None,
    img_size: Size = None,
    train_images: Annotated[int | None, typer.Option(min=1, help="Train on so many images, the first ones.")] = None,
    val_images: Annotated[int | None, typer.Option(min=1, help="Choose by so many images, the first ones.")] = None,
    baseline_epochs: Annotated[int, typer.Option(min=1, help="Epochs of each seed's baseline.")] = 30,
    baseline_lr: Annotated[float, typer.Option(help="Its learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    supernet_epochs: Annotated[
        int | None,
        typer.Option(
            help="What choosing may cost each method: as many passes as these epochs of UPDP's supernet. Default: 4."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of UPDP's subnet. Default: 10.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of pruned models. Default: 5e-4.")] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates that UPDP's search evaluates. Default: 24.")] = None,
    settings: Settings = None,
    shard: Annotated[str, typer.Option(help="A part of the jobs, such as 1/2; join folders by copying files.")] = "1/1",
    batch: Annotated[int | None, typer.Option(min=1, help="Images at once to time. Default: the batch size.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Time in plain torch, not on fused kernels.")] = False,
    json: AsJson = False,
    *,
    images: ImageOptions,
) -> None:
    """Prune MODEL by several methods under one budget, measure what comes of it, and draw it on one page.

    MODEL is trained first, once a seed, unless it is a folder that updp-rt wrote. If it is killed or stopped, the same
    command goes on with what is missing; several at once share the jobs; more methods, goals and seeds may follow.
    """
    from updp_rt.pruning.config import PruneConfig, TrainConfig

    named: dict[str, Any] = {
        "supernet_epochs": supernet_epochs,
        "epochs": epochs,
        "lr": lr,
        "trials": trials,
        "batch_size": batch_size,
    }
    named = {name: value for name, value in named.items() if value is not None}
    base = read_settings(PruneConfig, {**named, "num_pruned": 1}, settings or [])
    shared = base.model_dump(exclude_unset=True, exclude={"num_pruned", "method", "seed"})
    part, size = _part(shard), parse_size(img_size)
    goals = _numbers("--num-pruned", num_pruned, int), _numbers("--amounts", amounts, float)

    from updp_rt.comparison import CompareConfig, Contest, Job, measure, read_comparison, run_jobs
    from updp_rt.pruning.latency import PLAIN
    from updp_rt.pruning.progress import Progress
    from updp_rt.report import write_report
    from updp_rt.runtime import FUSED

    config = CompareConfig(
        methods=tuple(word.strip() for word in methods.split(",") if word.strip()),
        num_pruned=goals[0],
        amounts=goals[1],
        seeds=seeds,
        settings=shared,
    )
    start, input_size = load_or_create(model, size)
    saved = Path(model).is_dir()
    how = preprocessing_of(model, start)
    splits = images.load(
        data, input_size, preprocessing=how, num_classes=num_classes, enlarge=saved or size is not None
    )
    if train_images or val_images:
        most = 1 << 40
        splits = splits.first(train_images or most, val_images or most)
    if saved:
        from updp_rt.cli.common import check_classes

        check_classes(start, splits, data, pretrained=False)
    training = {"epochs": baseline_epochs, "lr": baseline_lr, "batch_size": batch_size}
    folder = out_folder or Path("runs") / f"compare-{Path(model).name}"
    contest = Contest(
        folder=folder,
        name=Path(model).name,
        config=config,
        splits=splits,
        data=data,
        create=(lambda seed: start) if saved else partial(_create, model, size, splits, input_size),
        training=None if saved else TrainConfig.model_validate(training),
        show=not json,
        kernels=PLAIN if plain else FUSED,
    )
    progress = Progress(folder / "log.txt", show=not json)
    left = run_jobs(contest, shard=part, progress=progress)
    if not left:
        measure(folder, batch or batch_size, accelerated=not plain, progress=progress)
    page, _ = write_report(folder)
    found = read_comparison(folder)
    if json:
        print_json({"report": str(page), "left": [job.key for job in left], "rows": _rows(found)})
        return
    out.print(_table(found))
    for row in found.failed:
        out.print(
            f"failed: {Job(row.method, row.goal, row.seed).label}, seed {row.seed}: {row.failed}",
            soft_wrap=True,
            markup=False,
        )
    if left:
        out.print(f"{len(left)} jobs are left; the same command goes on with them", soft_wrap=True)
    out.print(f"the picture, and what is published beside it: {page}", soft_wrap=True)


def _create(
    model: str, size: tuple[int, int] | None, splits: Any, input_size: tuple[int, int, int], seed: int
) -> nn.Module:
    """The untrained model of a seed."""
    from updp_rt.artifacts import create_model
    from updp_rt.artifacts.preprocessing import set_preprocessing
    from updp_rt.pruning.trainer import seed_everything

    seed_everything(seed, "weights", 0)
    created = create_model(model, size=size, num_classes=splits.num_classes)
    set_preprocessing(created, splits.preprocessing, input_size)
    return created


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"--shard takes a part such as 1/2, not {text!r}")
    return int(part), int(parts)


def _numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"{option} takes numbers separated by commas, not {text!r}") from None


def _rows(found: Comparison) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from updp_rt.comparison import standings

    return [asdict(row) for row in standings(found)]


def _table(found: Comparison) -> Table:
    from rich.table import Table

    from updp_rt.comparison import front, standings
    from updp_rt.comparison.standings import spread

    rows = standings(found)
    best = front(rows)
    table = Table(title=f"{found.identity['model']} on {found.identity['data']}", title_justify="left")
    for column in ("method", "seeds", "accuracy, %", "change", "latency, ms", "speed-up"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        change, speedup = (sum(values) / len(values) if values else 0.0 for values in (row.changes, row.speedups))
        table.add_row(
            row.label,
            str(len(row.seeds)),
            f"{100 * row.accuracy:.2f} ± {100 * spread(row.accuracies):.2f}",
            f"{100 * change:+.2f}",
            f"{row.latency:.3f} ± {spread(row.ms):.3f}" if row.ms else "-",
            f"{speedup:.2f}×" if row.ms else "-",
            style="bold" if row in best else None,
        )
    table.caption = "bold: no other beats it in both; changes and speed-ups against the baseline of the same seed"
    table.caption_justify = "left"
    return table
