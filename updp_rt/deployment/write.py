"""One call that writes a model for another runtime, and says what was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from updp_rt._copies import copy_model
from updp_rt._marks import to_source
from updp_rt.blocks import model_input_size
from updp_rt.deployment.agreement import Agreement, Run, Source
from updp_rt.deployment.errors import ExportError
from updp_rt.deployment.onnx import about, lacks_onnx, write_onnx
from updp_rt.deployment.package import write_package
from updp_rt.deployment.program import BATCH, SIZE, trace, write_program

# Formats, and how their files end.
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        input: shape of the images; names where it is free.
        needs: what runs the file, and how.
        agreements: what was compared with the source before it was written; empty where nothing could run it.
        details: what the format has besides: ``opset``, ``operators``, ``compared_in`` and ``weights`` (a file beside
            it) of ONNX; ``kept`` of aoti, the operators of this package that it calls.
    """

    path: Path
    format: str
    dtype: str
    input: tuple[int | str, ...]
    needs: str
    agreements: list[Agreement] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def export(
    model: nn.Module,
    path: str | Path,
    format: str,
    *,
    input_size: tuple[int, int, int] | None = None,
    keep_kernels: bool = False,
) -> Exported:
    """Write `model`, pruned or not, accelerated or not, for another runtime, in eval mode, its own dtype and device.

    ``onnx`` and ``pt2`` hold its source in standard operators and take any number of images, of any size where the
    architecture does. ``aoti`` holds it accelerated, compiled for this kind of processor, for any number of images of
    one size. Before anything is written the file is run on several numbers of images, and on another size, and compared
    with float64; ONNX in ONNX Runtime, where that is installed.

    Args:
        path: ends in ``.onnx``, or in ``.pt2``. A file there is replaced at once or not at all.
        format: ``onnx``, ``pt2`` or ``aoti``.
        input_size: ``(channels, height, width)`` of the images it is for; the model's own by default.
        keep_kernels: with ``aoti``, keep calling this package's fused operators, which it then needs where it runs.

    Raises:
        ExportError: it cannot be exported so, or what was exported computes something else.
        WriteError: it cannot be written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ExportError(f"{format!r} is no format: there are {', '.join(FORMATS)}")
    if path.suffix != FORMATS[format] or path.is_dir():
        raise ExportError(f"{path}: a file of format {format} ends in {FORMATS[format]}: name it so")
    if keep_kernels and format != "aoti":
        raise ExportError(f"{format} holds standard operators only: kernels can be kept with format aoti")
    plain = to_source(copy_model(model)).eval()
    source = Source(plain.cpu() if format == "onnx" else plain, input_size or model_input_size(model))
    dtype = source.images.dtype
    if format == "onnx":
        lacks_onnx(dtype)
    agreements: list[Agreement] = []

    def check(run: Run, any_size: bool = False) -> None:
        agreements[:] = source.compare(run, any_size=any_size)

    def attempt(any_size: bool) -> dict[str, Any]:
        if format == "aoti":
            copied = copy_model(source.model)
            return write_package(copied, source.images, path, check, keep_kernels=keep_kernels)
        program, compare = trace(source.model, source.images, any_size=any_size), partial(check, any_size=any_size)
        if format == "pt2":
            return write_program(program, path, compare)
        return write_onnx(program, path, compare, about=about(source.model, source.input_size[0]), any_size=any_size)

    any_size = format != "aoti"
    try:
        details = attempt(any_size)
    except ExportError:
        if not any_size:
            raise
        any_size = False  # as the patch grids of transformers want it
        details = attempt(any_size)
    free = {**BATCH, **(SIZE if any_size else {})}
    shape = tuple(free.get(axis, length) for axis, length in enumerate(source.images.shape))
    return Exported(path, format, str(dtype).removeprefix("torch."), shape, details.pop("needs"), agreements, details)
