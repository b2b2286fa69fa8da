"""``updp-rt demo``: the whole of UPDP on real images, on any machine."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import out, print_json, summary_table
from updp_rt.cli.options import AsJson

if TYPE_CHECKING:
    from torch import nn

    from updp_rt.data import Splits

_SIZE = (32, 32)


@dataclass(frozen=True)
class _Budget:
    """Epochs that keep one model's demo within minutes on two cores."""

    baseline_epochs: int
    baseline_lr: float
    supernet_epochs: int
    epochs: int


_BUDGETS = {
    "deit_tiny_patch16_224": _Budget(30, 1e-3, 8, 20),
    "mobilenetv2_100": _Budget(30, 2e-3, 8, 16),
    "resnet34": _Budget(8, 1e-3, 2, 8),
    "convnext_tiny": _Budget(8, 5e-4, 1, 6),
}


@app.command(epilog="Example: updp-rt demo --model mobilenetv2_100")
def demo(
    model: Annotated[str, typer.Option(help=f"One of: {', '.join(_BUDGETS)}.")] = "deit_tiny_patch16_224",
    num_pruned: Annotated[int, typer.Option(min=1, help="How many blocks to prune.")] = 6,
    seed: Annotated[int, typer.Option(help="Of weights, batches and the search.")] = 0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for results.  [default: runs/demo-MODEL-pNUM]")
    ] = None,
    json: AsJson = False,
) -> None:
    """Train a model on handwritten digits (32x32), prune it in four stages, merge it, compare, and write a report.

    Killed, the same command goes on where it was; finished, it shows the results again.
    """
    if model not in _BUDGETS:
        raise ValueError(f"the demo runs {', '.join(_BUDGETS)}; for {model!r} use: updp-rt prune")

    import updp_rt
    from updp_rt.artifacts.preprocessing import set_preprocessing
    from updp_rt.data import load_splits
    from updp_rt.data.named import name_images
    from updp_rt.report import PROFILE, profile, write_report
    from updp_rt.runtime.certificates import certify

    budget = _BUDGETS[model]
    folder = out_folder or Path("runs") / f"demo-{model}-p{num_pruned}"
    splits = load_splits("digits", (3, *_SIZE))
    baseline = _trained_baseline(model, splits, budget, seed, folder / "baseline")
    set_preprocessing(baseline, splits.preprocessing, (3, *_SIZE))
    result = updp_rt.prune(
        baseline,
        splits.train,
        splits.val,
        test=splits.test,
        num_pruned=num_pruned,
        out=folder / "pruned",
        seed=seed,
        batch_size=32,
        supernet_epochs=budget.supernet_epochs,
        epochs=budget.epochs,
    )
    if not (result.folder / PROFILE).is_file():
        profile(result.folder)
    certificate = result.folder / "merged" / "certificate.json"
    if not certificate.is_file():
        certify(certificate.parent, name_images("digits")).save(certificate)
    page, _ = write_report(result.folder)
    if json:
        print_json({**result.summary, "report": str(page)})
        return
    out.print(summary_table(result.summary))
    out.print(f"merged model: {result.folder / 'merged'}", soft_wrap=True)
    out.print(f"pictures: {result.folder}/search.png, training.png, blocks.png", soft_wrap=True)
    out.print(f"all of it on one page: {page}", soft_wrap=True)
    out.print(
        f"prune your own: updp-rt prune {model} --checkpoint your.safetensors --data your/images --num-pruned 6",
        soft_wrap=True,
    )


def _trained_baseline(name: str, splits: Splits, budget: _Budget, seed: int, folder: Path) -> nn.Module:
    """The model trained on the digits from scratch, stored in `folder` and read from there the next time."""
    from safetensors.torch import save_file

    from updp_rt.artifacts import create_model, load_checkpoint
    from updp_rt.artifacts.atomic import atomic_path, write_json
    from updp_rt.data import make_loader
    from updp_rt.pruning.progress import Progress
    from updp_rt.pruning.trainer import Recipe, evaluate, fit, label_losses, make_accelerator, seed_everything

    recipe = Recipe(budget.baseline_epochs, budget.baseline_lr, seed=seed)
    seed_everything(seed, "weights", 0)
    model = create_model(name, size=_SIZE, num_classes=splits.num_classes)
    identity = {"model": name, "seed": seed, "epochs": recipe.epochs, "lr": recipe.lr}
    settings, weights, checkpoint = folder / "baseline.json", folder / "baseline.safetensors", folder / "baseline.ckpt"
    if settings.exists() and jsonlib.loads(settings.read_text(encoding="utf-8")) != identity:
        raise ValueError(f"{folder}: holds another baseline; choose another --out or delete it")
    write_json(settings, identity)
    if weights.exists():
        load_checkpoint(model, weights)
        return model
    val = make_loader(splits.val, 256, training=False)
    fit(
        model,
        make_loader(splits.train, 32, training=True, seed=seed),
        label_losses(),
        recipe,
        stage="baseline",
        accelerator=make_accelerator(),
        progress=Progress(folder / "log.txt"),
        checkpoint=checkpoint,
        after_epoch=lambda trained: {"val_accuracy": evaluate(trained, val)},
    )
    model.cpu()
    with atomic_path(weights) as temporary:
        save_file(model.state_dict(), temporary)
    checkpoint.unlink(missing_ok=True)
    return model
