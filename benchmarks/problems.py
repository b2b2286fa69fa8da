"""The problems that are measured, projected and checked. No other file here builds one or asks which operator it is.

Frozen are all that the four models meet at 224, unpruned, with half of their blocks merged, and with all. They stand in
``frozen.json`` at batch 1, one a line, with how often each model's variant meets it. ``python -m benchmarks freeze``
writes them from the models; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.models import MODELS
from updp_rt.artifacts.atomic import write_text
from updp_rt.backends import Geometry, Problem
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.projection.problems import model_problems

PATH = Path(__file__).with_name("frozen.json")
VARIANTS = ("P0", "half", "all")  # half: every other block, from the first on; each in its family's first form
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Of the projection: all that these models meet at batch 128, but attention and grouped convolutions, which have no
# kernel of their own.
PROJECTED = ("deit_tiny_patch16_224", "convnext_tiny", "resnet34")
PROJECTED_BATCH = 128

# Input, weights, residual, activation, geometry. Of each operator: nothing a multiple of anything; multiples of 8 with
# whole tiles of depth, whose kernels load several values a lane; fewer rows and columns than any tile.
_ODD: dict[str, tuple[tuple[Any, ...], ...]] = {
    "linear": (
        ((37, 45), ((51, 45), (51,)), True, "gelu", Geometry()),
        ((200, 128), ((136, 128), None), False, "relu", Geometry()),
        ((1, 24), ((8, 24), (8,)), True, "silu", Geometry()),
    ),
    "conv2d": (
        ((2, 5, 13, 11), ((7, 5, 3, 3), (7,)), True, "gelu", Geometry((2, 2), (1, 1))),
        ((2, 64, 14, 14), ((72, 64, 5, 5), None), False, "relu", Geometry(padding=(2, 2))),
        ((1, 24, 7, 7), ((8, 24, 1, 1), (8,)), True, "relu6", Geometry()),
    ),
    "depthwise_pointwise": (
        ((2, 13, 11, 9), ((13, 1, 7, 7), (13,), (21, 13, 1, 1), (21,)), True, "gelu", Geometry(padding=(3, 3))),
        ((2, 64, 14, 14), ((64, 1, 7, 7), None, (72, 64, 1, 1), None), False, "none", Geometry(padding=(3, 3))),
        ((1, 24, 9, 9), ((24, 1, 3, 3), (24,), (8, 24, 1, 1), (8,)), False, "relu6", Geometry((2, 2), (1, 1))),
    ),
    "dual_linear": (
        ((37, 45), ((51, 45), (51, 23), (51,)), False, "gelu", Geometry()),
        ((200, 128), ((136, 128), (136, 64), None), False, "relu", Geometry()),
        ((1, 24), ((8, 24), (8, 40), (8,)), False, "none", Geometry()),
    ),
}
ODD = tuple(_ODD)  # operators that have odd problems

Met = dict[str, dict[str, int]]  # by model and variant: how often


def odd_problems(operator: str, dtype: torch.dtype, device: torch.device) -> list[Problem]:
    """Small problems of one operator that cross the borders of tiles."""
    return [
        Problem(operator, x, weights, residual, act, geometry, dtype, device.type)
        for x, weights, residual, act, geometry in _ODD[operator]
    ]


def square(size: int) -> Problem:
    """A product of two square float16 matrices."""
    return Problem("linear", (size, size), ((size, size), None), False, "none", Geometry(), torch.float16, "cpu")


def has_bound(problem: Problem) -> bool:
    """Whether a GPU must reach its bound of the memory's bandwidth: ConvNeXt's merged block."""
    return problem.operator == "depthwise_pointwise"


def projected_problems(dtypes: Sequence[torch.dtype] = DTYPES, models: Sequence[str] = PROJECTED) -> list[Problem]:
    """The frozen problems that are projected, unpruned and with every block merged."""
    return [
        problem
        for dtype in dtypes
        for problem, _ in frozen_problems(models, PROJECTED_BATCH, dtype, "cpu", variants=("P0", "all"))
        if problem.operator != "attention" and (problem.operator != "conv2d" or problem.geometry.groups == 1)
    ]


def frozen_problems(
    models: Sequence[str],
    batch: int,
    dtype: torch.dtype,
    device: str,
    variants: Sequence[str] = VARIANTS,
) -> Iterator[tuple[Problem, Met]]:
    """The problems that these models' variants meet at a batch size, each once."""
    for problem, met in _frozen():
        if any(variant in met.get(model, {}) for model in models for variant in variants):
            first, *rest = problem.x
            yield replace(problem, x=(first * batch, *rest), dtype=dtype, device=device), met


def find_problems(name: str) -> dict[Problem, dict[str, int]]:
    """What one model meets at batch 1, found by running it: how often by variant."""
    model = timm.create_model(name).eval()
    names = prunable_blocks(model)
    found: dict[Problem, dict[str, int]] = {}
    for variant, chosen in zip(VARIANTS, ([], names[::2], names), strict=True):
        problems, _ = model_problems(_merged(model, chosen), torch.randn(1, 3, 224, 224), 1, torch.float32)
        for problem, count in problems.items():
            found.setdefault(problem, {})[variant] = count
    return found


def freeze() -> int:
    """Write ``frozen.json`` from the models; returns how many problems there are."""
    met: dict[Problem, Met] = {}
    for model in MODELS:
        for problem, counts in find_problems(model).items():
            met.setdefault(problem, {})[model] = counts
    lines = [json.dumps(_record(problem) | {"met": by_model}) for problem, by_model in met.items()]
    write_text(PATH, "[\n" + ",\n".join(lines) + "\n]\n")
    return len(met)


def _merged(model: nn.Module, names: list[str]) -> nn.Module:
    if not names:
        return model
    subnet = make_progressive(model, names)
    set_lambda(subnet, 1.0)
    return merge_model(subnet)


def _record(problem: Problem) -> dict[str, Any]:
    g = problem.geometry
    return {
        "operator": problem.operator,
        "x": problem.x,
        "weights": problem.weights,
        "residual": problem.residual,
        "act": problem.act,
        "geometry": (g.stride, g.padding, g.groups),
    }


@cache
def _frozen() -> tuple[tuple[Problem, Met], ...]:
    return tuple((_problem(record), record["met"]) for record in json.loads(PATH.read_text(encoding="utf-8")))


def _problem(record: dict[str, Any]) -> Problem:
    weights = tuple(None if shape is None else tuple(shape) for shape in record["weights"])
    stride, padding, groups = record["geometry"]
    geometry = Geometry(tuple(stride), tuple(padding), groups)
    x = tuple(record["x"])
    return Problem(record["operator"], x, weights, record["residual"], record["act"], geometry, torch.float32, "cpu")
