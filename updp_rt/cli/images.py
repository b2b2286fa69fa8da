"""Options of the commands that read pictures: what these go through, under the names of timm's scripts."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from updp_rt.cli.common import saved_folder

if TYPE_CHECKING:
    from torch import nn

    from updp_rt.artifacts.preprocessing import Preprocessing
    from updp_rt.data import Splits

# By name of the transform: its option, the type of it, and what it is. Numbers come as text, one or several.
_EVALUATION: dict[str, tuple[str, type, str]] = {
    "mean": ("--mean", tuple, "Mean of pixels between 0 and 1: one number, or one per channel. Default: the model's."),
    "std": ("--std", tuple, "Their standard deviation, likewise. Default: the model's."),
    "interpolation": ("--interpolation", str, "Such as bilinear or bicubic. Default: the model's."),
    "crop_pct": (
        "--crop-pct",
        float,
        "Share of the edge that evaluation keeps. Default: the model's; 1 for small pictures.",
    ),
    "crop_mode": ("--crop-mode", str, "center, squash or border. Default: the model's."),
}
_TRAINING: dict[str, tuple[str, type, str]] = {
    "scale": ("--scale", tuple, "Area of training crops. Default: 0.08,1; 0.8,1 for small pictures."),
    "ratio": ("--ratio", tuple, "Aspect of training crops. Default: 0.75,1.33."),
    "hflip": ("--hflip", float, "Probability. Default: 0.5."),
    "vflip": ("--vflip", float, "Probability. Default: 0."),
    "color_jitter": (
        "--color-jitter",
        tuple,
        "One number, or one each for brightness, contrast, saturation. Default: 0.4; 0 for small pictures.",
    ),
    "auto_augment": ("--aa", str, "Such as rand-m9-mstd0.5."),
    "re_prob": ("--reprob", float, "Probability of random erasing. Default: 0."),
    "no_aug": ("--no-aug", bool, "Train on what evaluation sees: no random changes."),
}


TRANSFORMS = (*_EVALUATION, *_TRAINING)


@dataclass(frozen=True)
class ImageOptions:
    """What was asked for on the command line; the rest is the model's own or suits the pictures."""

    transforms: dict[str, Any] = field(default_factory=dict)
    class_map: Path | None = None

    def load(self, data: str, input_size: tuple[int, int, int], **settings: Any) -> Splits:
        """The splits of `data`, see `updp_rt.data.load_splits`."""
        from updp_rt.data import load_splits

        return load_splits(data, input_size, transforms=self.transforms, class_map=self.class_map, **settings)

    def over(self, transforms: dict[str, Any], class_map: Path | None) -> ImageOptions:
        """These, and others where these say nothing."""
        return ImageOptions({**transforms, **self.transforms}, self.class_map or class_map)

    def need(self, data: str | None) -> None:
        """Raise `ValueError` where options of pictures are given and no pictures."""
        if data is None and self != ImageOptions():
            raise ValueError(
                "options for pictures (--mean, --crop-pct ...) need --data: without it there are no pictures"
            )


def reads_images(*, training: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of pictures, and of training's where it trains; it gets them as `images`."""
    options = {**_EVALUATION, **(_TRAINING if training else {})}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_images(class_map: Path | None = None, **given: Any) -> None:
            asked = {name: given.pop(name) for name in options}
            transforms = {
                name: _numbers(options[name][0], value) if options[name][1] is tuple else value
                for name, value in asked.items()
                if value is not None and value is not False
            }
            command(**given, images=ImageOptions(transforms, class_map))

        signature = inspect.signature(command, eval_str=True)
        kept = [parameter for name, parameter in signature.parameters.items() if name != "images"]
        added = [_parameter(name, *option) for name, option in options.items()]
        added.append(
            _parameter("class_map", "--class-map", Path, "The classes' numbers: .txt with one name per line, or .json.")
        )
        with_images.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        return with_images

    return decorate


def preprocessing_of(target: str, model: nn.Module) -> nn.Module | Preprocessing:
    """What the folder at `target` recorded of its model's pictures; the model itself where that is nothing."""
    from updp_rt.artifacts import read_manifest

    folder = saved_folder(target)
    return (read_manifest(folder).preprocessing if folder is not None else None) or model


def show_images(splits: Splits) -> None:
    """Tell on stderr what pictures go through where nothing is trained."""
    for line in splits.describe(training=False):
        print(line, file=sys.stderr)


def _parameter(name: str, option: str, kind: type, text: str) -> inspect.Parameter:
    shown = typer.Option(
        option, help=text, show_default=False, rich_help_panel="Pictures", metavar="NUMBERS" if kind is tuple else None
    )
    optional = bool if kind is bool else (str if kind is tuple else kind) | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None,
        annotation=Annotated[optional, shown],
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"{option} takes numbers, such as 0.5 or 0.48,0.46,0.41, not {text!r}") from None
