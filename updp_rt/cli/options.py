"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="A timm model, such as resnet34.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Size = Annotated[str | None, typer.Option("--img-size", help="Image size, such as 224 or 160x192 (height x width).")]
