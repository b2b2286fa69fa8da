"""Models as ONNX, in memory: standard operators only, the batch dynamic."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

INPUT, OUTPUT = "images", "logits"
# The first with Gelu; LayerNormalization is older.
OPSET = 20
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
    return _export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).model_proto


def program_to_onnx(program: ExportedProgram, free: dict[int, str]) -> Any:
    """A program of one batch of images as an ``onnx_ir.Model``; nothing in it says where on this machine code lies.

    Args:
        program: whose input, called `INPUT` then, has these dimensions free; its one output is called `OUTPUT`, and
            several ``logits_0``, ``logits_1`` ....
        free: names by dimension.

    Raises:
        torch.onnx.OnnxExporterError: it cannot be exported.
    """
    count = len(program.graph_signature.user_outputs)
    names = [OUTPUT] if count == 1 else [f"{OUTPUT}_{index}" for index in range(count)]
    model = _export(program, (), dynamic_shapes=(free,), output_names=names).model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    return model


def _export(model: Any, args: tuple[Any, ...], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated parts of torch, inside torch
        return torch.onnx.export(
            model, args, input_names=[INPUT], opset_version=OPSET, dynamo=True, verbose=False, **options
        )
