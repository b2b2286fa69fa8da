"""The model that a training or a pruning starts from, with its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from updp_rt.cli.common import check_classes, load_or_create
from updp_rt.cli.images import ImageOptions, preprocessing_of

if TYPE_CHECKING:
    from torch import nn

    from updp_rt.data import Splits

DATA = "digits, fashion-mnist, an image folder, idx/FOLDER, wds/PATH or hfds/NAME."
Data = Annotated[str, typer.Option(help=DATA)]
NumClasses = Annotated[int | None, typer.Option(help="Number of classes, if the data's folders don't say.")]


def open_start(
    model: str,
    data: str,
    images: ImageOptions,
    *,
    size: tuple[int, int] | None,
    num_classes: int | None,
    in_chans: int | None = None,
    pretrained: bool = False,
    checkpoint: Path | None = None,
    fresh_head: bool = False,
    check: Callable[[nn.Module], object] = lambda model: None,
) -> tuple[nn.Module, Splits]:
    """The model to start from and its data; the model says of its pictures what these go through.

    Args:
        model: timm's name, or the folder of a saved model.
        fresh_head: whether pretrained weights may be of other classes, the head being trained from scratch.
        check: raises if the model will not do, before any data is read.

    Raises:
        ValueError: no such model, data or checkpoint, or classes that differ.
    """
    from updp_rt.artifacts import create_model
    from updp_rt.artifacts.preprocessing import set_preprocessing
    from updp_rt.blocks import model_input_size

    saved = Path(model).is_dir()
    start, input_size = load_or_create(model, size)
    if saved and hasattr(start, "patch_embed") and model_input_size(start) != input_size:
        raise ValueError(f"{model}: a model for images of {model_input_size(start)}; it takes no others")
    if saved and in_chans not in (None, input_size[0]):
        raise ValueError(f"{model}: a model for images of {input_size[0]} channels: drop --in-chans")
    input_size = (in_chans or input_size[0], input_size[1], input_size[2])
    check(start)
    own = preprocessing_of(model, start)
    enlarge = saved or size is not None
    splits = images.load(data, input_size, preprocessing=own, num_classes=num_classes, enlarge=enlarge)
    if not saved:
        start = create_model(
            model,
            size=size,
            num_classes=splits.num_classes,
            in_chans=in_chans,
            pretrained=pretrained,
            checkpoint=checkpoint,
        )
    if not fresh_head or saved:
        check_classes(start, splits, data, pretrained=pretrained)
    set_preprocessing(start, splits.preprocessing, input_size)
    return start, splits
