"""What several commands share: making models, reading sizes, printing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from updp_rt.data import Splits

out = Console(highlight=False)


def print_json(value: Any) -> None:
    """Plain JSON on stdout, whatever the terminal."""
    print(json.dumps(value, indent=2), flush=True)  # a full disk is told while it can be


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"224"`` or ``"160x192"`` (height x width) as two numbers."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not an image size; write 224 or 160x192 (height x width)")
    return int(parts[0]), int(parts[-1])


DTYPES = ("float32", "float16", "bfloat16")


def parse_dtype(name: str) -> torch.dtype:
    """A dtype that fused operators run in."""
    if name not in DTYPES:
        raise ValueError(f"--dtype takes {', '.join(DTYPES)}, not {name!r}")
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def parse_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` or ``auto``: a GPU if there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch sees no GPU here; use --device cpu")
    return torch.device(name)


def saved_folder(target: str | Path) -> Path | None:
    """The folder of the saved model that `target` names: itself, or that in the folder of a run; None: no folder."""
    from updp_rt.report.collect import model_folder

    folder = Path(target)
    return model_folder(folder) if folder.is_dir() else None


def load_or_create(target: str, size: tuple[int, int] | None = None) -> tuple[nn.Module, tuple[int, int, int]]:
    """The saved model or the run's merged model at `target`, or a timm model of that name; and the images it is for.

    Returns:
        The model in eval mode, and ``(channels, height, width)``, the latter two `size` where that is given.
    """
    from updp_rt.artifacts import open_model

    opened = open_model(saved_folder(target) or target, size)
    return opened.model, opened.input_size


def check_classes(model: nn.Module, splits: Splits, data: str | None, *, pretrained: bool) -> None:
    """Raise `ValueError` if the model was trained for another number of classes than its data has."""
    classes = getattr(model, "pretrained_cfg", {}) if pretrained else vars(model)
    if classes.get("num_classes", splits.num_classes) != splits.num_classes:
        raise ValueError(
            f"the model was trained for {classes['num_classes']} classes, but {data!r} has {splits.num_classes}: "
            "fine-tune it on them first and give it as --checkpoint"
        )


@dataclass(frozen=True)
class Accelerated:
    """A model on fused kernels or another engine: its latency, that of the baseline beside it, and its certificate.

    Attributes:
        certified: whether that passed; None where the logits alone were compared with float64.
    """

    label: str
    latency_ms: float
    baseline_ms: float
    certified: bool | None


def summary_table(summary: dict[str, Any], accelerated: Sequence[Accelerated] = ()) -> Table:
    """Baseline, pruned subnet and merged model as rows, and models on fused kernels below them."""
    table = Table(title=f"{summary['architecture']}: {len(summary['blocks'])} blocks pruned", title_justify="left")
    table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False  # 80 columns are enough
    for column in ("", "accuracy", "depth", "params", "MACs", "latency", "speedup"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for key, label in (("baseline", "baseline"), ("subnet", "pruned subnet"), ("merged", "merged model")):
        row = summary[key]
        table.add_row(
            label,
            f"{100 * row['accuracy']:.2f}%",
            str(row["depth"]),
            f"{row['params'] / 1e6:.2f} M",
            f"{row['macs'] / 1e6:.1f} M",
            f"{row['latency_ms']:.2f} ms",
            f"{row['speedup']:.2f}×",
        )
    for fast in accelerated:
        speedup = f"{fast.baseline_ms / fast.latency_ms:.2f}×"
        verdict = {True: "certified", False: "FAILED", None: "logits"}[fast.certified]
        table.add_row(fast.label, verdict, "", "", "", f"{fast.latency_ms:.2f} ms", speedup)
    table.caption = (
        f"accuracy on {summary['images']} images of {summary['evaluated_on']}; the merged model predicts "
        f"{'exactly what the subnet does' if summary['predictions_that_differ'] == 0 else 'not what the subnet does'}"
        f" ({summary['predictions_that_differ']} differ); latency of a batch of {summary['batch_size']} on "
        f"{summary['device']}; {_prediction(summary)}; depth counts convolutions and linear layers"
    )
    if accelerated:
        table.caption += (
            f"; accelerated: on fused kernels, timed beside the baseline, which took {accelerated[0].baseline_ms:.2f} "
            "ms then; certified: each fused module, compared with float64, and the logits are within their bounds"
            f"{'; logits: these alone' if any(fast.certified is None for fast in accelerated) else ''}"
        )
    table.caption_justify = "left"
    return table


def _prediction(summary: dict[str, Any]) -> str:
    """What the search predicted, and what came of it."""
    found = summary.get("prediction")
    if found is None:
        return f"{summary['predicted_ms']:.2f} ms when it was chosen"
    return (
        f"on {found['kernels']} the search predicted {found['predicted_speedup']:.2f}× for the merged model, measured "
        f"{found['measured_speedup']:.2f}× (its latency {100 * abs(found['off']):.0f}% "
        f"{'more' if found['off'] > 0 else 'less'})"
    )
