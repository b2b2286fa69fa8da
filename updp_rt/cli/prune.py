"""Commands that prune: ``prune`` and ``merge``."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import out, parse_size, print_json, summary_table
from updp_rt.cli.images import ImageOptions, reads_images
from updp_rt.cli.options import MODEL_OR_FOLDER, AsJson, Channels, Size, model_or_folder
from updp_rt.cli.plan import show_plan
from updp_rt.cli.recipe import RecipeFile, read_recipe
from updp_rt.cli.settings import read_settings
from updp_rt.cli.start import DATA, NumClasses, open_start

Folder = Annotated[Path | None, typer.Option("--out", help="Folder for results; the same folder again resumes.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any further setting of PruneConfig, such as weight_decay=0.01."),
]


@app.command(
    epilog="Example: updp-rt prune deit_tiny_patch16_224 --pretrained --data imagenet/ --num-pruned 6"
    "\n\nOn several GPUs: torchrun --nproc-per-node 8 -m updp_rt.cli prune --config recipes/resnet34_8.yaml"
)
@reads_images(training=True)
def prune(
    model: Annotated[str | None, typer.Argument(help=f"{MODEL_OR_FOLDER} Or the recipe's.", show_default=False)] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A recipe (YAML): options and settings, below those given here."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, try a step, tell steps, cost and memory; write nothing.")
    ] = False,
    data: Annotated[str | None, typer.Option(help=f"{DATA} Default: digits.")] = None,
    num_pruned: Annotated[int | None, typer.Option(help="How many blocks to prune.")] = None,
    target_speedup: Annotated[
        float | None, typer.Option(help="Or how many times as fast, such as 1.3, by latencies measured here.")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(help="Or the latency allowed, as a share of the baseline's.")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="Or what costs no accuracy that can be seen; shows what more would cost.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help="updp (default), drop, depthshrinker, layer-folding, dp, layermerge or toast; of ViTs also hetdpt, "
            "nose, wdpruning, wdpruning-as-coded, s2vite, scop, xpruner or hvt."
        ),
    ] = None,
    out_folder: Folder = None,
    stage: Annotated[str, typer.Option(help="all, or one of: supernet, search, train, merge.")] = "all",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from timm's pretrained weights.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Start from this checkpoint (safetensors or torch).")] = None,
    reuse: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Take over this run's supernet, and its search if that fits.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Keep the search in PostgreSQL, postgresql://USER@HOST/DATABASE, where other machines share it.",
        ),
    ] = None,
    num_classes: NumClasses = None,
    in_chans: Channels = None,
    img_size: Size = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step and process. Default: 64.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load data. Default: 0.")] = None,
    supernet_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the supernet. Default: 4, or none where the subnet is trained for fewer than 10,000 steps."
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="guided (by single blocks), genetic, dp or front (NSGA-II). Default: by the goal and the trials."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates the search evaluates. Default: 24.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the subnet. Default: 10.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the subnet. Default: 5e-4.")] = None,
    schedule: Annotated[str | None, typer.Option(help="How λ rises: linear or cosine. Default: linear.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="λ = 1 from the start, to compare with.")] = False,
    distill: Annotated[float | None, typer.Option(help="Weight of the baseline's outputs as targets, 0 to 1.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, fp16 or bf16.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches per step of the optimizer.")] = None,
    sync_batch_norm: Annotated[
        bool, typer.Option("--sync-batch-norm", help="BatchNorm over the images of all processes.")
    ] = False,
    grad_checkpointing: Annotated[
        bool, typer.Option("--grad-checkpointing", help="Less memory, more time: blocks run again going backward.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and the search. Default: 0.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Go by times in plain torch, not on fused kernels.")] = False,
    settings: Settings = None,
    json: AsJson = False,
    *,
    images: ImageOptions,
) -> None:
    """Prune MODEL on your data in four stages: supernet, search, progressive training, merge.

    How many blocks? `--front --stage search` shows what each further block costs and saves; `--reuse` then takes that
    run's supernet over.

    If it is killed or stopped, the same command resumes it. Each stage can also run alone, on what the stages before
    it left in the folder; `--stage search` by several processes at once, which share its candidates.
    """
    from updp_rt.pruning.config import STAGES, PruneConfig

    if stage != "all" and stage not in STAGES:
        raise ValueError(f"--stage takes all, {', '.join(STAGES)}; not {stage!r}")
    file, written = (RecipeFile(), {}) if recipe is None else read_recipe(recipe)
    if pretrained or checkpoint is not None or (model is not None and Path(model).is_dir()):
        file = file.model_copy(update={"pretrained": pretrained, "checkpoint": checkpoint})
    pretrained, checkpoint, name = file.pretrained, file.checkpoint, model_or_folder(model or file.model)
    if name is None:
        raise ValueError("give a MODEL, or with --config a recipe that names one")
    if pretrained + (checkpoint is not None) + Path(name).is_dir() != 1:
        raise ValueError(
            "pruning starts from a trained model: give --pretrained or --checkpoint FILE (one of them), "
            "or give the folder of a saved model as MODEL (and neither)"
        )
    named: dict[str, Any] = {
        "num_pruned": num_pruned,
        "method": method,
        "target_speedup": target_speedup,
        "max_latency": max_latency,
        "front": front or None,
        "search": search,
        "batch_size": batch_size,
        "workers": workers,
        "supernet_epochs": supernet_epochs,
        "trials": trials,
        "epochs": epochs,
        "lr": lr,
        "schedule": schedule,
        "direct": direct or None,
        "distill": distill,
        "mixed_precision": mixed_precision,
        "accumulate": accumulate,
        "sync_batch_norm": sync_batch_norm or None,
        "grad_checkpointing": grad_checkpointing or None,
        "seed": seed,
    }
    config = read_settings(PruneConfig, named, settings or [], recipe, written)
    size = parse_size(img_size or file.img_size)
    if checkpoint is not None and not checkpoint.exists():
        raise ValueError(f"{checkpoint}: no such checkpoint")

    from updp_rt.blocks import prunable_blocks
    from updp_rt.methods import find_method
    from updp_rt.pruning import Run
    from updp_rt.pruning.latency import PLAIN
    from updp_rt.pruning.pipeline import default_folder, run_stages
    from updp_rt.runtime import FUSED

    find_method(config.method)
    created, splits = open_start(
        name,
        data or file.data or "digits",
        images.over(file.pictures, file.class_map),
        size=size,
        num_classes=num_classes or file.num_classes,
        in_chans=in_chans or file.in_chans,
        pretrained=pretrained,
        checkpoint=checkpoint,
        check=prunable_blocks,
    )
    folder = out_folder or file.out or default_folder(created, config)
    run = Run(
        created,
        splits.train,
        splits.val,
        folder,
        config,
        test=splits.test,
        reuse=reuse,
        storage=storage,
        augmentation=splits.augmentation,
        notes=splits.describe(),
        kernels=PLAIN if plain else FUSED,
    )
    if dry_run:
        from updp_rt.pruning.plan import make_plan

        plan = make_plan(run)
        if run.main:
            show_plan(run, plan, file.about, json)
        return
    run_stages(run, STAGES if stage == "all" else (stage,))
    if not run.main:
        return
    if stage in ("all", "merge"):
        _show_summary(run.folder, json)
    elif json:
        print_json({"folder": str(run.folder), "stage": stage, "done": True})
    else:
        if stage == "search":
            _show_advice(run.folder)
        out.print(f"{stage}: done, in {run.folder}", soft_wrap=True)


@app.command(epilog="Example: updp-rt merge runs/deit-p6 --out deit_tiny_p6")
def merge(
    folder: Annotated[Path, typer.Argument(help="Folder of a run whose subnet is trained.", show_default=False)],
    out_folder: Annotated[Path | None, typer.Option("--out", help="Where to save. Default: FOLDER/merged.")] = None,
    form: Annotated[
        str, typer.Option(help="auto (fastest by the run's latency table), or a form such as conv, factored, linear.")
    ] = "auto",
    json: AsJson = False,
) -> None:
    """Merge the trained subnet of a run again, and save the merged model (safetensors and manifest)."""
    from updp_rt.methods import merge_folder  # with all methods, whichever the run was made by

    saved = merge_folder(folder, out_folder, form)
    print_json({"folder": str(saved)}) if json else out.print(f"merged model saved in {saved}")


def _show_summary(folder: Path, json: bool) -> None:
    from updp_rt.report import write_report

    summary = jsonlib.loads((folder / "summary.json").read_text(encoding="utf-8"))
    page, _ = write_report(folder)
    if json:
        print_json({**summary, "report": str(page)})
        return
    out.print(summary_table(summary))
    out.print(f"merged model: {folder / 'merged'}   pictures: {page}", soft_wrap=True)


def _show_advice(folder: Path) -> None:
    """What each further pruned block costs in accuracy and saves in latency, by the search."""
    from rich.table import Table

    from updp_rt.pruning import LatencyTable, SearchResult
    from updp_rt.pruning.run import LATENCY, SEARCH, read_result

    search, model_ms = read_result(folder / SEARCH, SearchResult), read_result(folder / LATENCY, LatencyTable).model_ms
    table = Table(title="how many blocks to prune, by the best candidate of each number", title_justify="left")
    for column in ("blocks", "accuracy before training", "latency", "of the baseline's"):
        table.add_column(column, justify="right")
    table.add_column("which")
    for count, best in search.by_count().items():
        share = f"{100 * best.latency_ms / model_ms:.0f}%"
        figures = (f"{100 * best.accuracy:.2f}%", f"{best.latency_ms:.2f} ms", share)
        table.add_row(str(count), *figures, ", ".join(best.blocks), style="bold" if best == search.chosen else None)
    seen = "" if search.signal is None else f"{search.signal.words()}. "
    table.caption = (
        f"{seen}accuracies are the supernet's: training raises those of many blocks most. Another goal: the same "
        f"command with --num-pruned N or --target-speedup X and --reuse {folder}"
    )
    table.caption_justify = "left"
    out.print(table)
