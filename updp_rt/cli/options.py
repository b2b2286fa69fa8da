"""Arguments and options that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from updp_rt._names import refuse_unknown

MODEL_OR_FOLDER = "A timm model, or a folder that updp-rt wrote."
# As `updp_rt.runtime.engines` has them, which is slow to import.
ENGINES = ("modules", "compiled", "graph", "inductor", "onnxruntime", "openvino", "migraphx", "auto")
_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".json", ".onnx")


def model_or_folder(target: str | None) -> str | None:
    """Refuse, before anything is loaded, a path that leads to no folder and a name that timm does not know."""
    if target is None or Path(target).is_dir():
        return target
    takes = "give a timm model or a folder that updp-rt wrote"
    if Path(target).is_file():
        raise ValueError(f"{target}: a file; {takes}")
    if (os.sep in target and ":" not in target) or target.endswith(_FILES):
        raise ValueError(f"{target}: no such {'file' if target.endswith(_FILES) else 'folder'}; {takes}")
    if ":" not in target:
        refuse_unknown(target)
    return target


def _model(name: str) -> str:
    if os.sep in name and Path(name).is_dir():
        raise ValueError(f"{name}: a folder; this command takes a timm model, such as resnet34")
    model_or_folder(name)
    return name


def _device(name: str) -> str:
    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f"--device takes cpu, cuda or auto, not {name!r}")
    return name


def _engine(name: str | None) -> str | None:
    if name is not None and name not in ENGINES:
        raise ValueError(f"--engine takes {', '.join(ENGINES)}, not {name!r}")
    return name


ModelName = Annotated[str, typer.Argument(help="A timm model, such as resnet34.", show_default=False, callback=_model)]
ModelOrFolder = Annotated[
    str,
    typer.Argument(help=MODEL_OR_FOLDER, show_default=False, callback=model_or_folder),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda (AMD's GPUs too), or auto: a GPU if there is one.", callback=_device)
]
Engine = Annotated[str, typer.Option(help=f"What runs the whole model: {', '.join(ENGINES)}.", callback=_engine)]
OtherEngine = Annotated[
    str | None,
    typer.Option("--engine", help=f"{', '.join(ENGINES)}. Default: a runtime that is installed.", callback=_engine),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Channels = Annotated[int | None, typer.Option("--in-chans", min=1, help="Channels of the images: 1 for grey ones.")]
Size = Annotated[str | None, typer.Option("--img-size", help="Image size, such as 224 or 160x192 (height x width).")]
