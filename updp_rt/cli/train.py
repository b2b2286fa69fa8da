"""``updp-rt train``: a baseline trained on your own data, to prune afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import out, parse_size, print_json
from updp_rt.cli.images import ImageOptions, reads_images
from updp_rt.cli.options import AsJson, Channels, ModelOrFolder, Size
from updp_rt.cli.settings import read_settings
from updp_rt.cli.start import Data, NumClasses, open_start


@app.command(epilog="Example: updp-rt train resnet34 --pretrained --data photos/ --epochs 20 --out photos_resnet34")
@reads_images(training=True)
def train(
    model: ModelOrFolder,
    data: Data = "digits",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the trained model. Default: runs/train-MODEL.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's pretrained weights, except for the head.")
    ] = False,
    num_classes: NumClasses = None,
    in_chans: Channels = None,
    img_size: Size = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs. Default: 30.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: 1e-3.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step and process. Default: 64.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load data. Default: 0.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, fp16 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches. Default: 0.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any further setting of TrainConfig: weight_decay=0.01."),
    ] = None,
    json: AsJson = False,
    *,
    images: ImageOptions,
) -> None:
    """Train MODEL on your data, from scratch, from timm's weights or from a folder's, and save it to be pruned.

    If it is killed or stopped, the same command resumes it.
    """
    from updp_rt.pruning.config import TrainConfig

    named: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "workers": workers,
        "mixed_precision": mixed_precision,
        "seed": seed,
    }
    config, size = read_settings(TrainConfig, named, settings or []), parse_size(img_size)

    from updp_rt.artifacts import read_manifest
    from updp_rt.blocks.model import find_blocks
    from updp_rt.pruning import train_baseline
    from updp_rt.pruning.trainer import seed_everything

    seed_everything(config.seed, "weights", 0)
    start, splits = open_start(
        model,
        data,
        images,
        size=size,
        num_classes=num_classes,
        in_chans=in_chans,
        pretrained=pretrained,
        fresh_head=True,
    )
    folder = out_folder or Path("runs") / f"train-{Path(model).name}"
    train_baseline(
        start,
        splits.train,
        splits.val,
        folder,
        config,
        test=splits.test,
        augmentation=splits.augmentation,
        notes=splits.describe(),
    )
    accuracy = read_manifest(folder).accuracy or 0.0
    if json:
        print_json({"folder": str(folder), "accuracy": accuracy})
        return
    out.print(f"accuracy {100 * accuracy:.2f}% on {len(splits.test)} test images; saved in {folder}", soft_wrap=True)  # type: ignore[arg-type]
    if blocks := sum(block.prunable for block in find_blocks(start)):
        pruned = (blocks + 1) // 2
        out.print(f"prune it: updp-rt prune {folder} --data {data} --num-pruned {pruned}", soft_wrap=True)
    else:
        out.print(f"prune its channels: updp-rt channels {folder} --data {data} --out FOLDER", soft_wrap=True)
