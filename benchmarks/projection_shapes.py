"""Problems of `benchmarks.projection`: all that DeiT-T, ConvNeXt-T and ResNet34 meet at batch 128 and 224.

Unpruned and with every block merged, from the frozen list in `benchmarks.shapes`, without attention and grouped
convolutions, which have no kernel of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.shapes import frozen_problems
from updp_rt.backends import Geometry, Problem

BATCH = 128
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MODELS = ("deit_tiny_patch16_224", "convnext_tiny", "resnet34")


def problems(model: str, dtype: torch.dtype) -> Iterator[Problem]:
    """The frozen problems of one of `MODELS`."""
    for problem, _ in frozen_problems([model], BATCH, dtype, "cpu", variants=("P0", "all")):
        if problem.operator != "attention" and (problem.operator != "conv2d" or problem.geometry.groups == 1):
            yield problem


def square(size: int) -> Problem:
    """A product of two square float16 matrices."""
    return Problem("linear", (size, size), ((size, size), None), False, "none", Geometry(), torch.float16, "cpu")
