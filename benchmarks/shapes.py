"""Frozen problems: all that the four models meet at 224, unpruned, with half of their blocks merged, and with all.

They stand in ``shapes.json`` at batch 1, one a line, with how often each model's variant meets it.
``python -m benchmarks.shapes`` writes them anew from the models; a test compares the two.
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

from benchmarks.common import MODELS
from updp_rt.artifacts.atomic import write_text
from updp_rt.backends import Geometry, Problem
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.projection.problems import model_problems

PATH = Path(__file__).with_name("shapes.json")
VARIANTS = ("P0", "half", "all")  # half: every other block, from the first on; each in its family's first form

Met = dict[str, dict[str, int]]  # by model and variant: how often


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


def write_frozen() -> None:
    """Write ``shapes.json`` anew."""
    met: dict[Problem, Met] = {}
    for model in MODELS:
        for problem, counts in find_problems(model).items():
            met.setdefault(problem, {})[model] = counts
    lines = [json.dumps(_record(problem) | {"met": by_model}) for problem, by_model in met.items()]
    write_text(PATH, "[\n" + ",\n".join(lines) + "\n]\n")


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


if __name__ == "__main__":
    write_frozen()
    print(f"written: {PATH.name}, {len(_frozen())} problems")
