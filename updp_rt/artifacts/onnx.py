"""Models as ONNX, in memory: standard operators only, the batch dynamic."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor, nn

INPUT = "images"
# What torch's exporter needs besides torch.
PACKAGES = ("onnx", "onnxscript")


def missing_packages(*others: str) -> str | None:
    """Which packages are not installed that the export and `others` need, and the command that mends it."""
    gone = [name for name in (*PACKAGES, *others) if importlib.util.find_spec(name) is None]
    return f"{', '.join(gone)} not installed (pip install {' '.join(gone)})" if gone else None


@torch.no_grad()
def to_onnx(model: nn.Module, example: Tensor) -> Any:
    """`model` as an ``onnx.ModelProto``, for any number of images of the example's size.

    Args:
        model: in eval mode.
        example: images ``[N, C, H, W]``. Two are exported at least, since exporters take a single one for all there is.

    Raises:
        torch.onnx.OnnxExporterError: it cannot be exported.
    """
    images = example if len(example) > 1 else torch.cat((example, example))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated parts of torch, inside torch
        program = torch.onnx.export(
            model,
            (images,),
            input_names=[INPUT],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto
