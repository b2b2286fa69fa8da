"""``updp-rt demo``: the whole of UPDP on real images, on any machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from updp_rt.cli.app import app
from updp_rt.cli.common import Accelerated, out, print_json, summary_table
from updp_rt.cli.options import AsJson

_SIZE, _BATCH = (32, 32), 32


@dataclass(frozen=True)
class _Budget:
    """Epochs that keep one model's demo within minutes on two cores, and how many blocks it prunes."""

    baseline_epochs: int
    baseline_lr: float
    supernet_epochs: int
    epochs: int
    num_pruned: int = 6


_DIGITS = {
    "deit_tiny_patch16_224": _Budget(30, 1e-3, 8, 20),
    "mobilenetv2_100": _Budget(30, 2e-3, 8, 16),
    "resnet34": _Budget(8, 1e-3, 2, 8),
    "convnext_tiny": _Budget(8, 5e-4, 1, 6),
}
# On as many images of Fashion-MNIST.
_IMAGES, _VAL_IMAGES = 12_000, 2_000
_SCANS = {
    "small_resnet": _Budget(6, 2e-3, 2, 4, num_pruned=4),
    "small_mobilenetv2": _Budget(6, 3e-3, 1, 4),
    "small_convnext": _Budget(6, 2e-3, 2, 4),
    "small_vit": _Budget(30, 1e-3, 2, 5),
}


@app.command(epilog="Example: updp-rt demo --model mobilenetv2_100")
def demo(
    model: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(_DIGITS)}; on scans: {', '.join(_SCANS)}.", show_default="the first"),
    ] = None,
    data: Annotated[
        str, typer.Option(help="digits, or scans: fashion-mnist or idx/FOLDER (the first 12,000 images).")
    ] = "digits",
    num_pruned: Annotated[
        int | None, typer.Option(min=1, help="How many blocks to prune. Default: 6; of small_resnet 4.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and the search.")] = 0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for results. Default: runs/demo-MODEL-pNUM.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Train a model on real scans (32x32), prune it in four stages, merge it, compare, and write a report.

    If it is killed, the same command resumes it; once finished, it shows the results again.
    """
    if data not in ("digits", "fashion-mnist") and not data.startswith("idx/"):
        raise ValueError(f"the demo takes digits, fashion-mnist or idx/FOLDER; for {data!r} use: updp-rt train, prune")
    budgets = _DIGITS if data == "digits" else _SCANS
    model = model or next(iter(budgets))
    if model not in budgets:
        raise ValueError(f"the demo runs {', '.join(budgets)} on {data!r}; for {model!r} use: updp-rt prune")

    import updp_rt
    from updp_rt.artifacts import create_model
    from updp_rt.artifacts.preprocessing import set_preprocessing
    from updp_rt.data import load_splits
    from updp_rt.pruning import TrainConfig, train_baseline
    from updp_rt.pruning.trainer import seed_everything
    from updp_rt.report import write_report
    from updp_rt.runtime import FUSED

    budget = budgets[model]
    num_pruned = num_pruned or budget.num_pruned
    folder = out_folder or Path("runs") / f"demo-{model}-p{num_pruned}"
    splits = load_splits(data, (3, *_SIZE))
    if data != "digits":
        splits = splits.first(_IMAGES, _VAL_IMAGES)
    seed_everything(seed, "weights", 0)
    baseline = create_model(model, size=_SIZE, num_classes=splits.num_classes)
    set_preprocessing(baseline, splits.preprocessing, (3, *_SIZE))
    config = TrainConfig.model_validate(
        {"epochs": budget.baseline_epochs, "lr": budget.baseline_lr, "batch_size": _BATCH, "seed": seed}
    )
    baseline = train_baseline(
        baseline, splits.train, splits.val, folder / "baseline", config, test=splits.test, notes=splits.describe()
    )
    result = updp_rt.prune(
        baseline,
        splits.train,
        splits.val,
        test=splits.test,
        num_pruned=num_pruned,
        out=folder / "pruned",
        seed=seed,
        batch_size=_BATCH,
        supernet_epochs=budget.supernet_epochs,
        epochs=budget.epochs,
        kernels=FUSED,
    )
    accelerated = _accelerated(folder / "baseline", result.folder, data)
    page, _ = write_report(result.folder)
    if json:
        print_json({**result.summary, "accelerated": [asdict(fast) for fast in accelerated], "report": str(page)})
        return
    out.print(summary_table(result.summary, accelerated))
    out.print(f"merged model: {result.folder / 'merged'}", soft_wrap=True)
    out.print(f"all of it, with pictures, on one page: {page}", soft_wrap=True)
    out.print(
        f"your own: updp-rt train {model} --pretrained --data your/images, and then updp-rt prune runs/train-{model} "
        "--data your/images --num-pruned 6",
        soft_wrap=True,
    )


def _accelerated(baseline: Path, run: Path, data: str) -> list[Accelerated]:
    """The baseline and the merged model on fused kernels, timed and certified once and kept in their folders."""
    from updp_rt.data.named import name_images
    from updp_rt.report import PROFILE, profile
    from updp_rt.report.schema import Profile
    from updp_rt.runtime.certificates import certify
    from updp_rt.verification import Certificate

    kept = run / PROFILE
    times = (Profile.model_validate_json(kept.read_bytes()) if kept.is_file() else profile(run)).model
    verdicts = []
    for model in (baseline, run / "merged"):
        path = model / "certificate.json"
        if not path.is_file():
            certify(model, name_images(data)).save(path)
        verdicts.append(Certificate.load(path).passed)
    found = [
        Accelerated("baseline, accelerated", times.baseline_accelerated, times.baseline, verdicts[0]),
        Accelerated("merged, accelerated", times.accelerated, times.baseline, verdicts[1]),
    ]
    if times.other is not None:
        found.append(Accelerated(f"merged, {times.other.engine}", times.other.merged, times.baseline, None))
    return found
