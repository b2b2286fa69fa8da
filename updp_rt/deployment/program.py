"""Models as programs of ``torch.export``, of torch's own operators: ``.pt2`` files that run without this package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.deployment.agreement import Check
from updp_rt.deployment.errors import ExportError, first_line

# Dimensions of images ``[N, C, H, W]`` that a program may leave open.
BATCH, SIZE = {0: "batch"}, {2: "height", 3: "width"}


@torch.no_grad()
def trace(model: nn.Module, images: Tensor, *, any_size: bool) -> ExportedProgram:
    """`model` as a program for any number of images, of the size of `images` or of any size.

    Raises:
        ExportError: torch cannot follow it.
    """
    count, channels, height, width = images.shape
    if any_size:
        # Larger than they are, or maps of one pixel would make their size a constant; and not square.
        images = images.new_zeros(count, channels, 2 * height, 3 * width)
    free: dict[int, Any] = dict.fromkeys((*BATCH, *(SIZE if any_size else ())), Dim.DYNAMIC)
    try:
        program = torch.export.export(model, (images,), dynamic_shapes=(free,))
    except Exception as error:  # whatever torch's exporter and the model's own code raise
        raise ExportError(f"torch.export cannot follow this {type(model).__name__}: {first_line(error)}") from error
    for node in program.graph.nodes:  # which say where on this machine its code lies
        node.meta.pop("stack_trace", None)
    return program


def write_program(program: ExportedProgram, path: Path, check: Check) -> dict[str, Any]:
    """Write a program as `path`, once what is read from the file agrees."""
    program._example_inputs = None  # images that the file would hold
    buffer = io.BytesIO()  # torch wants a path to end as it likes
    torch.export.save(program, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        buffer.seek(0)
        check(torch.export.load(buffer).module())
    return {"needs": "torch alone: torch.export.load(FILE).module()"}
